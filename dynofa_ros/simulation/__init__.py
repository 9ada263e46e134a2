"""Applications and a board in simulated time, as discrete events. No ROS."""
