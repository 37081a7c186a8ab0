"""The stages of the pipeline, as a process runs them on a unit: fetch, decode, segment, isolate. Without Ray."""
