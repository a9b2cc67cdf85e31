"""The demonstration: two rounds over real registers, with a real broker and Spark; all districts are on this machine."""
