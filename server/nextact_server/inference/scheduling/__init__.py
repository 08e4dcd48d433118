"""Schedulers: how requests for one model version become batches on its instances."""
