"""The code that runs inside a replica: the model's files, the engine, and the HTTP app in front of it."""
