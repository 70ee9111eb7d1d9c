"""The controller's application: RIB per virtual router, FIB, links, and the flows that follow from them."""
