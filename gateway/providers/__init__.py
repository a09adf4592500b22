"""The provider types: which wire format each speaks, where, and what is particular about it; see ``registry``."""
