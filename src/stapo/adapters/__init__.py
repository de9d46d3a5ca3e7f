"""Our environments and our math for other libraries, in the forms that they expect."""
