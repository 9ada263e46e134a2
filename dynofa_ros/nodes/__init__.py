"""The ROS nodes: perception, manager and device, each a shell around its layer."""
