"""What a process does with a unit of the plan: fetch, decode, segment, isolate what kills it."""
