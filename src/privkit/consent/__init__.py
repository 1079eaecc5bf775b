"""Whether a data subject is a child, and whether a parent has agreed."""
