"""The models on Ray Serve: one application each, the directory of their replicas, and autoscaling."""
