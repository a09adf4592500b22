"""The policy: which targets may serve a call, what each would cost and take, in which order to try them. Pure."""
