//! How much is copied at most, and how large tables are.

/// The most bytes that are copied of the start of one message, unless it is a call of Discord's API.
pub const CAPTURE_MAX: usize = 4096;

/// The most bytes that are copied of a call of Discord's API: what a reply answers stands behind its text, which may be 2000
/// characters, of which each may be written in twelve.
pub const CAPTURE_CALL: usize = 32768;

/// How many bytes are copied of a frame that goes out over a websocket, unless it is small: as many as hold the session that
/// a bot goes on with.
pub const CAPTURE_FRAME: usize = 128;

/// How many bytes are copied of the start of every later segment of a message.
pub const CAPTURE_LATER: usize = 32;

/// How many bytes are copied of the end of a segment whose start was not copied whole.
pub const TAIL: usize = 8;

/// The same of a segment of a language model's call: what was used stands at the end of an answer, and often the model's name
/// and whether to stream at that of a question. A segment that is no longer is copied whole.
pub const CAPTURE_TAIL: usize = 1024;

/// How many pieces of one gathered read or write are told apart; what follows them is one last piece.
pub const GATHER_MAX: usize = 16;

/// The most bytes that are copied of one decompressed message whose kind matters, in pieces of [`CAPTURE_MAX`].
pub const INFLATED_MAX: u32 = 32 << 10;

/// The most bytes that are copied of any other.
pub const INFLATED_OTHER: u32 = 512;

/// The most bytes of a socket address that are copied: as many as a `sockaddr_un` has.
pub const ADDRESS_MAX: usize = 112;

/// The most bytes of a server's name that are copied: as many as the name system allows, and the zero at its end.
pub const NAME_MAX: usize = 256;

/// The most addresses of one answer that are copied, doubles included: a resolver lists each once for every kind of socket.
pub const ANSWERS_MAX: usize = 16;

/// How many bytes of the ring are overwritten at once when it is scrubbed, without the ring's own 8 bytes an entry, and
/// how many times that at most in one run: the smallest ring holds four.
pub const SCRUB_PIECE: usize = (16 << 10) - 8;
/// See [`SCRUB_PIECE`].
pub const SCRUB_PIECES: u32 = 16;

/// Slots of the table that tells at once whether a process is certainly not watched.
pub const FILTER_SLOTS: u32 = 1 << 14;

/// Connections that the first of their two tables holds, at most: as many as its buckets take two pages.
pub const CONNECTIONS_FEW: u32 = 512;
