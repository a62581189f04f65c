//! A gRPC message framed by hand, for one that goes to many receivers: the bytes are made once and
//! shared, where tonic's encoder would make them anew for each.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use crate::{MAX_MESSAGE_BYTES, WireError};

/// Bytes before a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// The message as a gRPC body holds it, uncompressed.
///
/// # Errors
/// It takes more than [`MAX_MESSAGE_BYTES`]; the error calls it `name`.
pub fn frame(name: &str, message: &impl Message) -> Result<Bytes, WireError> {
    let len = message.encoded_len();
    if len > MAX_MESSAGE_BYTES {
        let expected = format!("at most {MAX_MESSAGE_BYTES} bytes");
        return Err(WireError::field(name, expected, len));
    }
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + len);
    bytes.put_u8(0);
    bytes.put_u32(len as u32);
    message
        .encode(&mut bytes)
        .expect("there is room for the length it said");
    Ok(bytes.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::PolicySnapshot;

    #[test]
    fn a_frame_is_prefix_and_message() {
        let message = PolicySnapshot {
            version: 7,
            weights: Bytes::from_static(b"weights"),
            ..PolicySnapshot::default()
        };
        let frame = frame("snapshot", &message).unwrap();
        let (prefix, body) = frame.split_at(PREFIX_BYTES);
        assert_eq!(prefix, [0, 0, 0, 0, body.len() as u8]);
        assert_eq!(PolicySnapshot::decode(body).unwrap(), message);
    }

    #[test]
    fn what_no_receiver_accepts_is_refused() {
        let message = PolicySnapshot {
            weights: vec![0; MAX_MESSAGE_BYTES].into(),
            ..PolicySnapshot::default()
        };
        let error = frame("snapshot", &message).unwrap_err().to_string();
        assert!(
            error.starts_with("snapshot: expected at most 67108864 bytes, got 671088"),
            "{error}"
        );
    }
}
