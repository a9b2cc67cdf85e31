"""The demonstration: real registers, two rounds, everything real but the districts' distance."""
