//! Records as the kernel side writes them, of processes that do not exist.

#![allow(dead_code, reason = "whoever writes records writes some of these")]

use miku_probe::discovery::sockets::Socket;
use miku_probe::pipeline::World;
use miku_probe::units::{Direction, Tgid};
use miku_probe_abi::{
    ABI_VERSION, ADDRESS_MAX, ANSWERS_MAX, Answer, CAPTURE_MAX, CloseRecord, DataRecord, HandshakeRecord,
    INFLATED_ENDS, INFLATED_STARTS, InflatedRecord, NAME_MAX, OpenRecord, Origin, RecordHeader, RecordKind,
    ResolvedRecord, ServerNameRecord, TAIL, bytes_of,
};

const AF_INET: u16 = 2;

/// A world in which no socket can be asked.
#[derive(Debug)]
pub(crate) struct Nowhere;

impl World for Nowhere {
    fn socket(&self, _tgid: Tgid, _fd: i32) -> Option<Socket> {
        None
    }
}

/// A process of one thread, at a time: nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    pub(crate) tgid: u32,
    pub(crate) time: u64,
}

impl Process {
    /// So many nanoseconds later.
    pub(crate) fn after(self, nanos: u64) -> Self {
        Self { time: self.time + nanos, ..self }
    }

    fn header(self, kind: RecordKind, length: usize) -> RecordHeader {
        let Self { tgid, time: time_ns } = self;
        let length = u32::try_from(length).expect("a record is short");
        RecordHeader { version: ABI_VERSION, kind: kind as u8, padding: 0, length, time_ns, tgid, tid: tgid }
    }

    /// A TCP connection, of a descriptor and a generation, to or from an IPv4 address.
    pub(crate) fn open(self, fd: i32, generation: u64, origin: Origin, ip: [u8; 4], port: u16) -> Vec<u8> {
        let mut address = [0; ADDRESS_MAX];
        address[..2].copy_from_slice(&AF_INET.to_ne_bytes());
        address[2..4].copy_from_slice(&port.to_be_bytes());
        address[4..8].copy_from_slice(&ip);
        let record = OpenRecord {
            header: self.header(RecordKind::Open, size_of::<OpenRecord>()),
            generation,
            socket: 0,
            fd,
            result: 0,
            origin: origin as u8,
            socket_type: 1,
            padding: [0; 2],
            address_length: 16,
            address,
        };
        bytes_of(&record).to_vec()
    }

    /// Bytes that moved over a connection.
    pub(crate) fn data(self, fd: i32, generation: u64, direction: Direction, bytes: &[u8]) -> Vec<u8> {
        self.moved(RecordKind::Data, u64::from(fd.unsigned_abs()), generation, direction, bytes)
    }

    /// Bytes that moved over a TLS stream.
    pub(crate) fn plaintext(self, ssl: u64, generation: u64, direction: Direction, bytes: &[u8]) -> Vec<u8> {
        self.moved(RecordKind::Plaintext, ssl, generation, direction, bytes)
    }

    fn moved(self, kind: RecordKind, handle: u64, generation: u64, direction: Direction, bytes: &[u8]) -> Vec<u8> {
        let captured = &bytes[..bytes.len().min(CAPTURE_MAX)];
        let record = DataRecord {
            header: self.header(kind, size_of::<DataRecord>() + captured.len()),
            generation,
            handle,
            lost: 0,
            size: u32::try_from(bytes.len()).expect("a segment is short"),
            captured: u16::try_from(captured.len()).expect("a capture is short"),
            tail_length: 0,
            errno: 0,
            direction: direction as u8,
            padding: 0,
            tail: [0; TAIL],
        };
        [bytes_of(&record), captured].concat()
    }

    /// The end of a connection.
    pub(crate) fn close(self, fd: i32, generation: u64) -> Vec<u8> {
        self.gone(RecordKind::Close, u64::from(fd.unsigned_abs()), generation)
    }

    /// The end of a TLS stream.
    pub(crate) fn free(self, ssl: u64, generation: u64) -> Vec<u8> {
        self.gone(RecordKind::Free, ssl, generation)
    }

    /// The end of a stream that is inflated.
    pub(crate) fn inflate_end(self, handle: u64, generation: u64) -> Vec<u8> {
        self.gone(RecordKind::InflateEnd, handle, generation)
    }

    fn gone(self, kind: RecordKind, handle: u64, generation: u64) -> Vec<u8> {
        let header = self.header(kind, size_of::<CloseRecord>());
        let (bytes_in, bytes_out) = (1_000, 1_000);
        bytes_of(&CloseRecord { header, generation, handle, bytes_in, bytes_out, lost: 0, padding: 0 }).to_vec()
    }

    /// A whole message that came out of a compressed stream.
    pub(crate) fn inflated(self, handle: u64, generation: u64, text: &str) -> Vec<u8> {
        let size = u32::try_from(text.len()).expect("a message is short");
        let record = InflatedRecord {
            header: self.header(RecordKind::Inflated, size_of::<InflatedRecord>() + text.len()),
            generation,
            handle,
            lost: 0,
            size,
            captured: size,
            flags: INFLATED_STARTS | INFLATED_ENDS,
            consumed: size,
            padding: 0,
        };
        [bytes_of(&record), text.as_bytes()].concat()
    }

    /// The name that the client at the end of a TLS stream asks for.
    pub(crate) fn server_name(self, ssl: u64, generation: u64, text: &str) -> Vec<u8> {
        let header = self.header(RecordKind::ServerName, size_of::<ServerNameRecord>());
        let (name, length) = named(text);
        bytes_of(&ServerNameRecord { header, generation, handle: ssl, length, padding: 0, name }).to_vec()
    }

    /// A handshake that ended well.
    pub(crate) fn handshake(self, ssl: u64, generation: u64) -> Vec<u8> {
        let header = self.header(RecordKind::Handshake, size_of::<HandshakeRecord>());
        let record = HandshakeRecord { header, generation, handle: ssl, duration_ns: 3_000_000, result: 1, error: 0 };
        bytes_of(&record).to_vec()
    }

    /// A name that was resolved.
    pub(crate) fn resolved(self, text: &str, ip: [u8; 4]) -> Vec<u8> {
        let mut addresses = [Answer { family: 0, address: [0; 16] }; ANSWERS_MAX];
        addresses[0].family = u32::from(AF_INET);
        addresses[0].address[..4].copy_from_slice(&ip);
        let (name, length) = named(text);
        let record = ResolvedRecord {
            header: self.header(RecordKind::Resolved, size_of::<ResolvedRecord>()),
            duration_ns: 1_000_000,
            result: 0,
            length,
            answers: 1,
            padding: 0,
            addresses,
            name,
        };
        bytes_of(&record).to_vec()
    }
}

fn named(text: &str) -> ([u8; NAME_MAX], u32) {
    let mut name = [0; NAME_MAX];
    name[..text.len()].copy_from_slice(text.as_bytes());
    (name, u32::try_from(text.len()).expect("a name is short"))
}
