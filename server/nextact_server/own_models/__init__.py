"""nextact's own models as tensor models: the encoders and the users' next-action model behind KServe v2's door."""
