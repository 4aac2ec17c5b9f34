"""What an object holds, told by three that share no code: the mirror, the object's own file, and a model in memory."""
