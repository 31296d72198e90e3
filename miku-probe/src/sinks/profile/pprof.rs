//! The form that `go tool pprof` reads: a gzipped protocol buffer, as `profile.proto` of github.com/google/pprof has it.
//! Field numbers are from there; fields that are not written are left out.

use std::collections::HashMap;
use std::io::{self, Write};
use std::time::SystemTime;

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;

use super::{Call, Profile};

#[derive(Clone, PartialEq, Message)]
struct File {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    r#type: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    /// Innermost first.
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

pub(super) fn write(profile: &Profile, output: &mut impl Write) -> io::Result<()> {
    let mut compressed = GzEncoder::new(output, Compression::default());
    compressed.write_all(&Tables::default().file(profile).encode_to_vec())?;
    compressed.finish()?;
    Ok(())
}

/// What samples refer to by number.
#[derive(Default)]
struct Tables {
    texts: HashMap<String, i64>,
    functions: HashMap<(i64, i64), u64>,
    locations: HashMap<Call, u64>,
    file: File,
}

impl Tables {
    fn file(mut self, profile: &Profile) -> File {
        // The first text is empty by the format.
        self.text("");
        let kind = |tables: &mut Self, name, unit| ValueType { r#type: tables.text(name), unit: tables.text(unit) };
        let (samples, time) = (kind(&mut self, "samples", "count"), kind(&mut self, "cpu", "nanoseconds"));
        self.file.sample_type = vec![samples, time];
        self.file.period_type = Some(time);
        let nanos = |time: std::time::Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        self.file.period = nanos(profile.period);
        self.file.duration_nanos = nanos(profile.duration);
        self.file.time_nanos = profile.start.duration_since(SystemTime::UNIX_EPOCH).map_or(0, nanos);
        for (stack, count) in &profile.stacks {
            let count = i64::try_from(*count).unwrap_or(i64::MAX);
            let location_id = stack.iter().rev().map(|call| self.location(call)).collect();
            let value = vec![count, count.saturating_mul(self.file.period)];
            self.file.sample.push(Sample { location_id, value });
        }
        self.file
    }

    fn text(&mut self, text: &str) -> i64 {
        if let Some(number) = self.texts.get(text) {
            return *number;
        }
        let number = i64::try_from(self.file.string_table.len()).unwrap_or(i64::MAX);
        self.file.string_table.push(text.to_owned());
        self.texts.insert(text.to_owned(), number);
        number
    }

    fn location(&mut self, call: &Call) -> u64 {
        if let Some(id) = self.locations.get(call) {
            return *id;
        }
        let (name, file, line) = match call {
            Call::Root(text) => (text.as_str(), "", 0),
            Call::Python(place) => (place.function.as_str(), place.file.as_str(), place.line.unwrap_or(0)),
        };
        let line = Line { function_id: self.function(name, file), line: i64::from(line) };
        let id = self.file.location.len() as u64 + 1;
        self.file.location.push(Location { id, line: vec![line] });
        self.locations.insert(call.clone(), id);
        id
    }

    fn function(&mut self, name: &str, file: &str) -> u64 {
        let (name, filename) = (self.text(name), self.text(file));
        if let Some(id) = self.functions.get(&(name, filename)) {
            return *id;
        }
        let id = self.file.function.len() as u64 + 1;
        self.file.function.push(Function { id, name, system_name: name, filename });
        self.functions.insert((name, filename), id);
        id
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::super::testing::profile;
    use super::*;

    #[test]
    fn all_of_it_is_read_again() {
        let mut bytes = Vec::new();
        write(&profile(), &mut bytes).expect("memory takes all");
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(bytes.as_slice()).read_to_end(&mut plain).expect("it is gzip");
        let file = File::decode(plain.as_slice()).expect("it is the message");
        assert_eq!(file.string_table[0], "");
        assert_eq!((file.period, file.duration_nanos), (10_000_000, 1_000_000_000));
        let text = |number: i64| file.string_table[usize::try_from(number).expect("it is a place")].as_str();
        let stacks: Vec<(String, i64, i64)> = file
            .sample
            .iter()
            .map(|sample| {
                let calls = sample.location_id.iter().map(|id| {
                    let location = file.location.iter().find(|location| location.id == *id).expect("it is there");
                    let line = location.line[0];
                    let of = |function: &&Function| function.id == line.function_id;
                    let function = file.function.iter().find(of).expect("it is there");
                    format!("{}@{}:{}", text(function.name), text(function.filename), line.line)
                });
                (calls.collect::<Vec<_>>().join(" "), sample.value[0], sample.value[1])
            })
            .collect();
        assert_eq!(
            stacks,
            [
                ("work@/srv/bot.py:7 main@/srv/bot.py:40 bot@:0".to_owned(), 3, 30_000_000),
                ("a;b <c>@/srv/bot.py:0 main@/srv/bot.py:41 bot@:0".to_owned(), 1, 10_000_000),
            ]
        );
        assert_eq!(file.function.len(), 4, "two lines of main are one function");
    }
}
