//! The sizes and offsets of all layouts, asserted; and which of them are nothing but bytes.

use core::mem::{offset_of, size_of};

use crate::{
    ANSWERS_MAX, ARRIVALS, Answer, Arrival, ArrivalOffsets, Arrivals, ArrivalsRecord, BindRecord, CAPTURE_CALL,
    CloseRecord, Connection, ConnectionKey, Counters, CudaAllocations, DataRecord, DialCall, DialRecord, ExitRecord,
    HandshakeRecord, InflateCall, InflateStream, InflatedRecord, LengthEvent, ListenerKey, LoopThread, NAME_MAX,
    NetOffsets, NetRecord, NetSocket, OpenRecord, Plain, ProcessRecord, RecordHeader, ResolveCall, ResolvedRecord,
    ServerNameRecord, SocketOffsets, Stream, StreamKey, SwitchEvent, SwitchOffsets, TaskOffsets, TlsCall,
    TracepointOffsets, WaitEvent,
};

const _: () = {
    assert!(size_of::<RecordHeader>() == 24);
    assert!(offset_of!(RecordHeader, length) == 4);
    assert!(offset_of!(RecordHeader, time_ns) == 8);
    assert!(offset_of!(RecordHeader, tgid) == 16);
    assert!(offset_of!(RecordHeader, tid) == 20);
    assert!(size_of::<DataRecord>() == 64);
    assert!(offset_of!(DataRecord, generation) == 24);
    assert!(offset_of!(DataRecord, handle) == 32);
    assert!(offset_of!(DataRecord, lost) == 40);
    assert!(offset_of!(DataRecord, size) == 44);
    assert!(offset_of!(DataRecord, captured) == 48);
    assert!(offset_of!(DataRecord, tail_length) == 50);
    assert!(offset_of!(DataRecord, errno) == 52);
    assert!(offset_of!(DataRecord, direction) == 54);
    assert!(CAPTURE_CALL <= u16::MAX as usize);
    assert!(offset_of!(DataRecord, tail) == 56);
    assert!(size_of::<OpenRecord>() == 168);
    assert!(offset_of!(OpenRecord, origin) == 48);
    assert!(offset_of!(OpenRecord, address_length) == 52);
    assert!(offset_of!(OpenRecord, address) == 56);
    assert!(size_of::<InflatedRecord>() == 64);
    assert!(offset_of!(InflatedRecord, generation) == 24);
    assert!(offset_of!(InflatedRecord, handle) == 32);
    assert!(offset_of!(InflatedRecord, lost) == 40);
    assert!(offset_of!(InflatedRecord, size) == 44);
    assert!(offset_of!(InflatedRecord, captured) == 48);
    assert!(offset_of!(InflatedRecord, flags) == 52);
    assert!(offset_of!(InflatedRecord, consumed) == 56);
    assert!(size_of::<CloseRecord>() == 64);
    assert!(offset_of!(CloseRecord, bytes_in) == 40);
    assert!(offset_of!(CloseRecord, lost) == 56);
    assert!(size_of::<HandshakeRecord>() == 56);
    assert!(offset_of!(HandshakeRecord, duration_ns) == 40);
    assert!(offset_of!(HandshakeRecord, result) == 48);
    assert!(size_of::<ServerNameRecord>() == 48 + NAME_MAX);
    assert!(offset_of!(ServerNameRecord, length) == 40);
    assert!(offset_of!(ServerNameRecord, name) == 48);
    assert!(size_of::<BindRecord>() == 56);
    assert!(offset_of!(BindRecord, socket_generation) == 40);
    assert!(offset_of!(BindRecord, bound) == 52);
    assert!(size_of::<ProcessRecord>() == 32);
    assert!(offset_of!(ProcessRecord, child) == 24);
    assert!(offset_of!(ProcessRecord, port) == 28);
    assert!(size_of::<ExitRecord>() == 32);
    assert!(offset_of!(ExitRecord, status) == 24);
    assert!(offset_of!(ExitRecord, flags) == 28);
    assert!(size_of::<ConnectionKey>() == 8);
    assert!(size_of::<Connection>() == 48);
    assert!(size_of::<StreamKey>() == 16);
    assert!(size_of::<Stream>() == 80);
    assert!(size_of::<TlsCall>() == 64);
    assert!(size_of::<InflateStream>() == 32);
    assert!(size_of::<InflateCall>() == 40);
    assert!(size_of::<NetRecord>() == 64);
    assert!(offset_of!(NetRecord, count) == 32);
    assert!(offset_of!(NetRecord, event) == 42);
    assert!(offset_of!(NetRecord, address) == 48);
    assert!(size_of::<Answer>() == 20);
    assert!(offset_of!(ResolvedRecord, addresses) == 48);
    assert!(offset_of!(ResolvedRecord, name) == 48 + ANSWERS_MAX * 20);
    assert!(size_of::<ResolvedRecord>() == 48 + ANSWERS_MAX * 20 + NAME_MAX);
    assert!(size_of::<NetSocket>() == 16);
    assert!(size_of::<ListenerKey>() == 8);
    assert!(size_of::<ResolveCall>() == 24);
    assert!(size_of::<DialCall>() == 16);
    assert!(size_of::<NetOffsets>() == 60);
    assert!(size_of::<Counters>() == 216);
    assert!(size_of::<TracepointOffsets>() == 32);
    assert!(size_of::<CudaAllocations>() == 48);
    assert!(size_of::<Arrival>() == 16);
    assert!(size_of::<ArrivalsRecord>() == 48);
    assert!(offset_of!(ArrivalsRecord, end) == 40);
    assert!(size_of::<Arrivals>() == 24 + ARRIVALS * size_of::<Arrival>());
    assert!(size_of::<ArrivalOffsets>() == 12);
    assert!(size_of::<LoopThread>() == 280);
    assert!(offset_of!(LoopThread, generation) == 24);
    assert!(offset_of!(LoopThread, turn_off) == 56);
    assert!(offset_of!(LoopThread, turns) == 96);
    assert!(offset_of!(LengthEvent, sk) == 8);
    assert!(offset_of!(LengthEvent, family) == 16);
    assert!(offset_of!(LengthEvent, ret) == 20);
    assert!(offset_of!(LengthEvent, flags) == 24);
    assert!(offset_of!(WaitEvent, first) == 16);
    assert!(offset_of!(SwitchEvent, prev_pid) == 24);
    assert!(offset_of!(SwitchEvent, prev_state) == 32);
    assert!(offset_of!(SwitchEvent, next_pid) == 56);
    assert!(size_of::<SwitchOffsets>() == 8);
    assert!(size_of::<SocketOffsets>() == 28);
    assert!(size_of::<TaskOffsets>() == 28);
};

macro_rules! plain {
    ($($layout:ty),+) => {$(
        // SAFETY: see the declaration: `repr(C)`, integers alone, no hidden padding, as the sizes above assert.
        unsafe impl Plain for $layout {}
        // SAFETY: as above, which is what `Pod` asks.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $layout {}
    )+};
}

plain!(
    RecordHeader,
    DataRecord,
    InflatedRecord,
    OpenRecord,
    DialRecord,
    CloseRecord,
    HandshakeRecord,
    ServerNameRecord,
    BindRecord,
    ProcessRecord,
    ExitRecord,
    ConnectionKey,
    Connection,
    StreamKey,
    Stream,
    InflateStream,
    InflateCall,
    CudaAllocations,
    TlsCall,
    LoopThread,
    Counters,
    TracepointOffsets,
    SocketOffsets,
    TaskOffsets,
    NetRecord,
    ResolvedRecord,
    Answer,
    NetSocket,
    ListenerKey,
    ResolveCall,
    DialCall,
    NetOffsets,
    SwitchOffsets,
    Arrival,
    Arrivals,
    ArrivalsRecord,
    ArrivalOffsets
);
