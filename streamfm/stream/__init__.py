"""Events scored as they happen: the loop, and the ports through which it is driven."""
