"""Where own replicas are and how they are, asked of the cluster's directory and of the replicas themselves."""
