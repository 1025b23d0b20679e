"""The kernel of read models: how a projection is written, and how it is kept up to date."""
