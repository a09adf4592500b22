"""Finds the replicas of own models, and follows their load: by the cluster's directory and the replicas themselves."""
