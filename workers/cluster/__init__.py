"""Ray and Serve: the applications of the models, their directory, and how many replicas each has."""
