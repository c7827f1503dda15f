"""The generator as a service on Ray Serve: `serve run serve.app:build bundle=URI`."""
