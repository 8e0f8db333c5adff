//! A node asked over real sockets.
