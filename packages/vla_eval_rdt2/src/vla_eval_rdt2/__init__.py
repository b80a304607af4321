"""RDT2 in the harness vla-eval: `server` is asked by it, `cell` is what it measures in."""
