//! What the numbers mean by which TLS libraries say why a handshake failed.
//!
//! They are `SSL_R_*` of `openssl/sslerr.h` (OpenSSL 1.1 to 3.6) and of `openssl/ssl.h` (BoringSSL, AWS-LC). Both count
//! alerts that were received from 1000 on, by the numbers of RFC 8446, section 6, and its forerunners.

use miku_probe_abi::TlsError;

use crate::observations::HandshakeFailure;

/// Received alerts.
const ALERTS: std::ops::Range<u32> = 1000..1256;

/// Why a handshake failed in which the library raised `error` first.
pub(super) const fn failure(error: TlsError) -> HandshakeFailure {
    let reason = error.reason();
    if ALERTS.start <= reason && reason < ALERTS.end {
        return alert(reason - ALERTS.start);
    }
    match error.library() {
        0 => HandshakeFailure::Closed,
        TlsError::OPENSSL => openssl(reason),
        TlsError::BORINGSSL => boringssl(reason),
        _ => HandshakeFailure::Other,
    }
}

/// What the other side refused.
const fn alert(number: u32) -> HandshakeFailure {
    match number {
        // no_certificate, bad_certificate, unsupported_certificate, certificate_revoked, certificate_expired,
        // certificate_unknown, unknown_ca, certificate_unobtainable, bad_certificate_status_response,
        // bad_certificate_hash_value, certificate_required
        41..=46 | 48 | 111 | 113 | 114 | 116 => HandshakeFailure::Certificate,
        // protocol_version, inappropriate_fallback
        70 | 86 => HandshakeFailure::Version,
        // handshake_failure, insufficient_security
        40 | 71 => HandshakeFailure::Cipher,
        _ => HandshakeFailure::Alert,
    }
}

const fn openssl(reason: u32) -> HandshakeFailure {
    match reason {
        // CERTIFICATE_VERIFY_FAILED, NO_CERTIFICATES_RETURNED, PEER_DID_NOT_RETURN_A_CERTIFICATE, CA_KEY_TOO_SMALL,
        // CA_MD_TOO_WEAK, EE_KEY_TOO_SMALL
        134 | 176 | 199 | 397..=399 => HandshakeFailure::Certificate,
        // BAD_PROTOCOL_VERSION_NUMBER, HTTPS_PROXY_REQUEST, HTTP_REQUEST, VERSION_TOO_HIGH, NO_PROTOCOLS_AVAILABLE,
        // UNKNOWN_PROTOCOL, UNKNOWN_SSL_VERSION, UNSUPPORTED_PROTOCOL, WRONG_SSL_VERSION, WRONG_VERSION_NUMBER,
        // INAPPROPRIATE_FALLBACK, VERSION_TOO_LOW
        116 | 155 | 156 | 166 | 191 | 252 | 254 | 258 | 266 | 267 | 373 | 396 => HandshakeFailure::Version,
        // NO_SUITABLE_KEY_SHARE, NO_SUITABLE_SIGNATURE_ALGORITHM, NO_CIPHERS_AVAILABLE, NO_SHARED_CIPHER,
        // UNKNOWN_CIPHER_RETURNED, WRONG_CIPHER_RETURNED, NO_SUITABLE_GROUPS, NO_SHARED_SIGNATURE_ALGORITHMS,
        // NO_SHARED_GROUPS
        101 | 118 | 181 | 193 | 248 | 261 | 295 | 376 | 410 => HandshakeFailure::Cipher,
        // UNEXPECTED_EOF_WHILE_READING
        294 => HandshakeFailure::Closed,
        _ => HandshakeFailure::Other,
    }
}

const fn boringssl(reason: u32) -> HandshakeFailure {
    match reason {
        // CERTIFICATE_VERIFY_FAILED, NO_CERTIFICATES_RETURNED, PEER_DID_NOT_RETURN_A_CERTIFICATE
        125 | 172 | 192 => HandshakeFailure::Certificate,
        // HTTPS_PROXY_REQUEST, HTTP_REQUEST, UNKNOWN_PROTOCOL, UNSUPPORTED_PROTOCOL, WRONG_SSL_VERSION,
        // WRONG_VERSION_NUMBER, NO_SUPPORTED_VERSIONS_ENABLED
        155 | 156 | 233 | 240 | 246 | 247 | 280 => HandshakeFailure::Version,
        // HANDSHAKE_FAILURE_ON_CLIENT_HELLO, NO_CIPHERS_AVAILABLE, NO_SHARED_CIPHER, UNKNOWN_CIPHER_RETURNED,
        // WRONG_CIPHER_RETURNED, NO_COMMON_SIGNATURE_ALGORITHMS, NO_SHARED_GROUP
        154 | 175 | 184 | 229 | 242 | 253 | 266 => HandshakeFailure::Cipher,
        _ => HandshakeFailure::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_told_by_the_numbers_of_their_library() {
        use HandshakeFailure as F;
        for (library, reason, expected) in [
            (0, 0, F::Closed),
            (20, 134, F::Certificate),
            (20, 267, F::Version),
            (20, 258, F::Version),
            (20, 193, F::Cipher),
            (20, 294, F::Closed),
            (20, 313, F::Other),
            (16, 125, F::Certificate),
            (16, 247, F::Version),
            (16, 184, F::Cipher),
            (16, 134, F::Other),
            (21, 134, F::Other),
            (20, 1048, F::Certificate),
            (16, 1042, F::Certificate),
            (20, 1047, F::Alert),
            (20, 1070, F::Version),
            (16, 1040, F::Cipher),
            (20, 1080, F::Alert),
            (20, 1255, F::Alert),
            (20, 1256, F::Other),
            // ERR_R_INTERNAL_ERROR, with the flag that it is common to all parts.
            (20, 259 | 1 << 19, F::Other),
        ] {
            assert_eq!(failure(TlsError::new(library, reason)), expected, "{reason} of {library}");
        }
    }
}
