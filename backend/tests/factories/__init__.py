"""What tests are made from: servers, databases, clocks, tenants."""
