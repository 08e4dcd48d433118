"""Code that runs models: one module or package for each backend that config.pbtxt can name."""
