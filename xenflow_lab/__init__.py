"""The lab: nodes, virtual routers and hosts as network namespaces, and the traffic tools that measure them."""
