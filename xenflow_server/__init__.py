"""The Dom0 daemon: clients, hypervisor and Open vSwitch ports become the inventory that the app plans from."""
