//! What a client would like best of what there is: `Accept` and `Accept-Encoding` of RFC 9110, section 12.5.

/// A preference, in thousandths, the finest step that RFC 9110 allows.
type Quality = u16;

/// A media type that can be answered with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer {
    /// Its type and subtype, such as `text/plain`.
    pub(super) media: &'static str,
    /// Its parameter `version`, when it has one.
    pub(super) version: Option<&'static str>,
}

/// The offer that `accept` prefers; the first one when it has no preference, or wants none of them.
///
/// Among equal qualities the offer wins that is asked for the most precisely, then the earlier one. A range that names
/// a version matches that version only.
pub(super) fn preferred(accept: &[&str], offers: &[Offer]) -> usize {
    let mut best = (0, (0, 0));
    for (index, offer) in offers.iter().enumerate() {
        // The most precise range that matches an offer says its quality.
        let wanted = elements(accept)
            .filter_map(|range| Some((precision(range, *offer)?, quality(range))))
            .max_by_key(|(precision, _)| *precision);
        if let Some((precision, quality)) = wanted
            && quality > 0
            && (quality, precision) > best.1
        {
            best = (index, (quality, precision));
        }
    }
    best.0
}

/// Whether `accept_encoding` takes gzip at least as gladly as no encoding at all.
pub(super) fn takes_gzip(accept_encoding: &[&str]) -> bool {
    let named = |names: &[&str]| {
        elements(accept_encoding)
            .find(|element| names.iter().any(|name| first_part(element).eq_ignore_ascii_case(name)))
            .map(quality)
    };
    let any = named(&["*"]);
    let gzip = named(&["gzip", "x-gzip"]).or(any).unwrap_or(0);
    // No encoding is always acceptable, unless it is refused, and never preferred without being named.
    let identity = named(&["identity"]).unwrap_or(0);
    gzip > 0 && gzip >= identity
}

/// The elements of a list that may be spread over several fields of the same name.
fn elements<'a>(fields: &[&'a str]) -> impl Iterator<Item = &'a str> {
    fields.iter().flat_map(|field| field.split(',')).map(str::trim).filter(|element| !element.is_empty())
}

fn first_part(element: &str) -> &str {
    element.split(';').next().unwrap_or_default().trim()
}

fn parameter<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    element.split(';').skip(1).find_map(|parameter| {
        let (key, value) = parameter.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"'))
    })
}

/// The element's `q`; a malformed one is taken for refusal rather than for the highest wish.
fn quality(element: &str) -> Quality {
    let Some(text) = parameter(element, "q") else { return 1000 };
    match text.parse::<f32>() {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the guard holds it within 0 to 1000"
        )]
        Ok(quality) if (0.0..=1.0).contains(&quality) => (quality * 1000.0).round() as Quality,
        _ => 0,
    }
}

/// How precisely a media range asks for `offer`; none when it does not match.
fn precision(range: &str, offer: Offer) -> Option<u8> {
    let media = first_part(range);
    let (kind, _) = offer.media.split_once('/')?;
    let precision = if media.eq_ignore_ascii_case(offer.media) {
        3
    } else if media.strip_suffix("/*").is_some_and(|wanted| wanted.eq_ignore_ascii_case(kind)) {
        2
    } else if media == "*/*" || media == "*" {
        1
    } else {
        return None;
    };
    match parameter(range, "version") {
        None => Some(precision),
        version if version == offer.version => Some(precision + 1),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFERS: [Offer; 2] = [
        Offer { media: "text/plain", version: Some("0.0.4") },
        Offer { media: "application/openmetrics-text", version: Some("1.0.0") },
    ];

    #[test]
    fn media_types_by_example() {
        const TEXT: usize = 0;
        const OPENMETRICS: usize = 1;
        for (accept, offer) in [
            // Nothing, a browser, curl.
            ("", TEXT),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8", TEXT),
            ("*/*", TEXT),
            // Prometheus 2.
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                OPENMETRICS,
            ),
            ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2", OPENMETRICS),
            // Prometheus 3, with and without its binary format first, and set to the old text only.
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                OPENMETRICS,
            ),
            (
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.4,*/*;q=0.3",
                OPENMETRICS,
            ),
            ("text/plain;version=0.0.4;q=0.6,*/*;q=0.5", TEXT),
            // Only a version that there is not.
            ("application/openmetrics-text;version=0.0.1", TEXT),
            ("application/openmetrics-text;version=0.0.1;q=0.9,text/plain;q=0.1", TEXT),
            // Without a version any will do.
            ("application/openmetrics-text", OPENMETRICS),
            ("application/openmetrics-text; q=0.4, text/plain; q=0.5", TEXT),
            ("application/openmetrics-text;q=0,*/*", TEXT),
            ("text/plain;q=0, */*;q=0.1", OPENMETRICS),
            // The more precise wish wins among equals.
            ("*/*, application/openmetrics-text", OPENMETRICS),
            ("application/*, text/*;q=0.9", OPENMETRICS),
            ("text/plain, application/openmetrics-text", TEXT),
            // Cases, spaces, quotes, and what cannot be read.
            ("APPLICATION/OpenMetrics-Text ; Version=\"1.0.0\" ; Q=1.0 , text/plain;q=0.999", OPENMETRICS),
            ("application/openmetrics-text;q=high, text/plain;q=0.001", TEXT),
            ("application/openmetrics-text;q=-1, text/plain;q=0.001", TEXT),
            ("application/openmetrics-text;q=NaN, text/plain;q=0.001", TEXT),
            (",;,;;=,/", TEXT),
            // Nothing that there is: an answer is of more use than none.
            ("image/png", TEXT),
        ] {
            assert_eq!(preferred(&[accept], &OFFERS), offer, "of {accept:?}");
        }
    }

    #[test]
    fn several_fields_are_one_list() {
        let fields = ["text/plain;q=0.1", "application/openmetrics-text;q=0.2"];
        assert_eq!(preferred(&fields, &OFFERS), 1);
    }

    #[test]
    fn encodings_by_example() {
        for (accept_encoding, gzip) in [
            ("", false),
            ("gzip", true),
            ("x-gzip", true),
            ("GZIP", true),
            ("deflate, gzip;q=1.0, *;q=0.5", true),
            ("gzip, deflate, br, zstd", true),
            ("br", false),
            ("identity", false),
            ("*", true),
            ("*;q=0", false),
            ("gzip;q=0", false),
            ("gzip;q=0, *", false),
            ("gzip;q=0.5, identity", false),
            ("gzip;q=0.5, identity;q=0.5", true),
            ("identity;q=0, gzip;q=0.1", true),
            ("identity;q=0", false),
        ] {
            assert_eq!(takes_gzip(&[accept_encoding]), gzip, "of {accept_encoding:?}");
        }
    }
}
