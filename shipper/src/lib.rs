//! farshore
