//! May this message be tried again?
