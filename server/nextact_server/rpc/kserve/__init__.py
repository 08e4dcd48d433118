"""KServe v2 with Triton's extensions: inference.GRPCInferenceService."""
