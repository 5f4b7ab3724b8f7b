"""Model files and their graphs, without any knowledge of ops."""
