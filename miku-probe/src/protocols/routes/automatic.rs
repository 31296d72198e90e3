//! The automatic template of a path for which no route is configured.

/// The most bytes of an automatic template.
pub const TEMPLATE_MAX: usize = 120;

/// The most segments of a path that its automatic template has; what follows them is `…`.
pub const SEGMENTS_MAX: usize = 8;

/// Stands for what was cut off.
const REST: &str = "/…";

/// The longest segment that may be a name.
const NAME_MAX: usize = 64;

/// Extensions of files that come in any number, most with the hash of their content in the name.
const ASSETS: [&str; 24] = [
    "js", "mjs", "css", "map", "png", "jpg", "jpeg", "gif", "svg", "ico", "webp", "avif", "woff", "woff2", "ttf",
    "otf", "eot", "mp3", "mp4", "webm", "ogg", "wav", "wasm", "zip",
];

/// Appends the template of `path` to `out`: its segments, with those that look like values replaced.
///
/// A segment becomes
/// - `{id}`: digits, also with `.`, `-`, `_` or `:` between them (numbers, snowflakes, dates);
/// - `{uuid}`: a UUID with its hyphens;
/// - `{email}`: something before an `@`, and something with a dot after it;
/// - `{file}.css`, with its extension: a file below the root that is a script, style, image, font, medium or archive,
///   or a file anywhere whose name holds a value;
/// - `{token}`: longer than 64 bytes, or with other characters than those that stand unencoded in URLs, or with a word
///   (a part between `-`, `_`, `.`, `:` and the like) of three and more digits, of eight and more hexadecimal digits, of
///   eight and more letters and digits with three digits among them, or of sixteen and more with one; or one that looks
///   drawn by lot, by how its letters and digits follow each other.
///
/// That errs towards the secret: a long name with many humps (`getUserPermissionsByOrganizationName`) is a `{token}` too.
/// Of random texts in the alphabet of base64 1 in 1,000 of 32 characters pass, and of 300,000 of 43 none did.
///
/// All else is a name and stays: `users`, `v1`, `@me`, `llama-3.1-8b`. At most [`SEGMENTS_MAX`] segments and
/// [`TEMPLATE_MAX`] bytes are kept. What does not begin with a slash is `*` or `{target}`.
pub fn template(path: &str, out: &mut String) {
    let Some(relative) = path.strip_prefix('/') else {
        out.push_str(if path == "*" { path } else { "{target}" });
        return;
    };
    let start = out.len();
    for (at, segment) in relative.split('/').enumerate() {
        let (name, extension) = match placeholder(segment, at > 0) {
            Some(replaced) => replaced,
            None => (segment, ""),
        };
        let length = out.len() - start + 1 + name.len() + extension.len();
        if at >= SEGMENTS_MAX || length > TEMPLATE_MAX - REST.len() {
            out.push_str(REST);
            return;
        }
        out.push('/');
        out.push_str(name);
        out.push_str(extension);
    }
}

/// What stands for a segment that is no name: a placeholder, and a file's extension with its dot.
fn placeholder(segment: &str, below_root: bool) -> Option<(&'static str, &str)> {
    let bytes = segment.as_bytes();
    if bytes.is_empty() {
        return None;
    }
    if is_uuid(bytes) {
        return Some(("{uuid}", ""));
    }
    if bytes.len() > NAME_MAX || !bytes.iter().all(|byte| is_unencoded(*byte)) {
        return Some(("{token}", ""));
    }
    if bytes.iter().any(u8::is_ascii_digit) && bytes.iter().all(|byte| byte.is_ascii_digit() || b".-_:".contains(byte))
    {
        return Some(("{id}", ""));
    }
    if segment.split_once('@').is_some_and(|(user, host)| !user.is_empty() && host.contains('.')) {
        return Some(("{email}", ""));
    }
    if let Some(dot) = segment.rfind('.')
        && dot > 0
    {
        let (name, extension) = segment.split_at(dot);
        let short = (2..=6).contains(&extension.len())
            && extension[1..].bytes().all(|byte| byte.is_ascii_alphanumeric())
            && !extension[1..].bytes().all(|byte| byte.is_ascii_digit());
        let asset = below_root && ASSETS.contains(&&extension[1..]);
        if asset || (short && holds_value(name, 6)) {
            return Some(("{file}", extension));
        }
    }
    (holds_value(segment, 8) || looks_random(segment)).then_some(("{token}", ""))
}

/// Whether `byte` may stand as it is in a segment (RFC 3986, section 3.3).
fn is_unencoded(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'&'..=b'.' | b':' | b';' | b'!' | b'$' | b'=' | b'@' | b'_' | b'~')
}

/// Whether one of the words of `text` is a value; `hash` is the length from which hexadecimal digits are one.
fn holds_value(text: &str, hash: usize) -> bool {
    text.split(|character: char| !character.is_ascii_alphanumeric()).any(|word| {
        let digits = word.bytes().filter(u8::is_ascii_digit).count();
        let hexadecimal = word.bytes().all(|byte| byte.is_ascii_hexdigit());
        match word.len() {
            _ if digits == 0 => false,
            length if digits == length => length >= 3,
            length => (length >= hash && hexadecimal) || (length >= 8 && digits >= 3) || length >= 16,
        }
    })
}

/// The longest run of letters without a digit that may be a word.
const WORD_MAX: usize = 32;

/// The fewest neighbours within words by which chance is told from a name.
const PAIRS_MIN: usize = 12;

/// Whether `segment` looks drawn by lot rather than named by somebody: where upper case, lower case and digits change
/// too often within its words, where a long one mixes them, and where a long word has no vowels for too long.
fn looks_random(segment: &str) -> bool {
    if segment.len() <= PAIRS_MIN {
        return false;
    }
    let (mut letters, mut pairs, mut changes) = (0, 0, 0);
    let (mut upper, mut lower, mut digit) = (false, false, false);
    for word in segment.as_bytes().split(|byte| !byte.is_ascii_alphanumeric()) {
        let class = |byte: &u8| (byte.is_ascii_lowercase(), byte.is_ascii_uppercase());
        letters += word.len();
        pairs += word.len().saturating_sub(1);
        changes += word.windows(2).filter(|pair| class(&pair[0]) != class(&pair[1])).count();
        upper |= word.iter().any(u8::is_ascii_uppercase);
        lower |= word.iter().any(u8::is_ascii_lowercase);
        digit |= word.iter().any(u8::is_ascii_digit);
        if word.len() >= 16 && word.iter().all(u8::is_ascii_alphabetic) {
            let vowel = |byte: &u8| b"aeiouy".contains(&byte.to_ascii_lowercase());
            if word.len() > WORD_MAX || word.split(vowel).any(|consonants| consonants.len() >= 6) {
                return true;
            }
        }
    }
    // Random base64 changes at three pairs of five, a name in camel case at one of three or fewer.
    (pairs >= PAIRS_MIN && changes * 5 >= pairs * 2)
        || (letters >= 32 && upper && lower && (digit || changes * 4 >= pairs))
}

/// Whether it is a UUID in its usual form (RFC 9562, section 4).
fn is_uuid(bytes: &[u8]) -> bool {
    bytes.len() == 36
        && bytes.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}
