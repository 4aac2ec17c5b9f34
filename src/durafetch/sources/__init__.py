"""Where objects come from: a Worker, or the files of `wrangler dev`. Each source utters the same frames."""
