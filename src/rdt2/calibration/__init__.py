"""Finding out where things are and how late they are, with what that is worth said beside it."""
