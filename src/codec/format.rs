//! The formats in which data is serialized. The flags of a payload name its format, so nodes read
//! all formats, whichever they write.

use std::io::Write;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Flag of a body in MessagePack.
pub(super) const MESSAGE_PACK: u8 = 4;

/// Number of bytes that the data of a session seldom exceeds. So much is allocated at first.
const USUAL_LEN: usize = 512;

/// Greatest depth of nested MessagePack that is read, as that of serde_json. By default it is eight
/// times as much, which may overflow the stack of a thread.
#[cfg(feature = "messagepack")]
const MAX_DEPTH: usize = 128;

/// Stands in for the message of a `Serialize`.
const FOREIGN_ERROR: &str =
    "`Serialize` has failed, with a message that is not shown since it may quote the data";

/// The format in which a session's data is written.
///
/// Nodes read every format, so it can be changed while sessions are live: a session changes its
/// format when it is written the next time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(not(feature = "messagepack"), allow(unreachable_pub, reason = "the feature exports it"))]
pub enum DataFormat {
    /// JSON (RFC 8259). Can be read with any tool, if records are not encrypted.
    #[default]
    Json,
    /// [MessagePack](https://msgpack.org), with the names of fields. Shorter than JSON above all
    /// for numbers and bytes, which JSON writes as text.
    ///
    /// It is no human-readable format to serde, so some types are serialized in another way than to
    /// JSON, such as addresses and times: as numbers or bytes. Data may be nested up to 128
    /// deep, as in JSON.
    ///
    /// # Risk
    ///
    /// A node that was built without the feature `messagepack` cannot read such records. Deploy
    /// the feature on all nodes before the first one writes the format. Remove it again only when
    /// every session has been written in JSON or has expired: one that is only read keeps its
    /// format. See [the guide](crate::guide::encryption).
    #[cfg(feature = "messagepack")]
    MessagePack,
}

impl DataFormat {
    /// Returns the flag that names the format.
    pub(super) fn flag(self) -> u8 {
        match self {
            DataFormat::Json => 0,
            #[cfg(feature = "messagepack")]
            DataFormat::MessagePack => MESSAGE_PACK,
        }
    }

    /// Returns the format that the flags of a payload name.
    pub(super) fn of(flags: u8) -> Result<Self, &'static str> {
        if flags & MESSAGE_PACK == 0 {
            return Ok(DataFormat::Json);
        }
        #[cfg(feature = "messagepack")]
        return Ok(DataFormat::MessagePack);
        #[cfg(not(feature = "messagepack"))]
        Err("the record is MessagePack, and this node was built without the feature `messagepack`")
    }

    /// Returns the name of the format, for texts.
    pub(super) fn name(self) -> &'static str {
        match self {
            DataFormat::Json => "JSON",
            #[cfg(feature = "messagepack")]
            DataFormat::MessagePack => "MessagePack",
        }
    }

    pub(super) fn to_bytes<T: Serialize>(self, data: &T) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::with_capacity(USUAL_LEN);
        self.write(&mut bytes, data)?;
        Ok(bytes)
    }

    /// Writes data. The error says what the format does not allow, and nothing of what the data is:
    /// the message of an application's `Serialize` may quote it.
    pub(super) fn write<T: Serialize>(
        self,
        writer: &mut impl Write,
        data: &T,
    ) -> Result<(), String> {
        match self {
            DataFormat::Json => serde_json::to_writer(writer, data).map_err(|error| {
                // In an error of serialization, this is a message that is not serde_json's own.
                let is_foreign = error.classify() == serde_json::error::Category::Data;
                if is_foreign { FOREIGN_ERROR.to_owned() } else { error.to_string() }
            }),
            #[cfg(feature = "messagepack")]
            DataFormat::MessagePack => data
                .serialize(&mut rmp_serde::Serializer::new(writer).with_struct_map())
                .map_err(|error| match error {
                    rmp_serde::encode::Error::Syntax(_) => FOREIGN_ERROR.to_owned(),
                    error => error.to_string(),
                }),
        }
    }

    /// Reads data, which must be all of the bytes. The error says where they do not match the type,
    /// and nothing of what they are: serde's own message may quote the data.
    pub(super) fn read<T: DeserializeOwned>(self, bytes: &[u8]) -> Result<T, String> {
        match self {
            DataFormat::Json => read_json(bytes).map_err(|error| {
                let (line, column) = (error.line(), error.column());
                format!("the JSON does not match the session type at line {line}, column {column}")
            }),
            #[cfg(feature = "messagepack")]
            DataFormat::MessagePack => {
                let mut rest = bytes;
                let mut deserializer = rmp_serde::Deserializer::new(&mut rest);
                deserializer.set_max_depth(MAX_DEPTH);
                let data = T::deserialize(&mut deserializer);
                data.ok().filter(|_| rest.is_empty()).ok_or_else(|| {
                    let position = bytes.len() - rest.len();
                    format!("the MessagePack does not match the session type at byte {position}")
                })
            }
        }
    }
}

/// Reads JSON. Checks once that it is UTF-8, and not for each of its strings.
fn read_json<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    match str::from_utf8(bytes) {
        Ok(text) => serde_json::from_str(text),
        // Fails, unless the type ignores the field where it is not.
        Err(_) => serde_json::from_slice(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Name {
        name: String,
    }

    #[test]
    fn text_must_be_utf_8_if_it_is_read() {
        assert!(read_json::<Name>(b"{\"name\":\"\xff\"}").is_err());
        let ada = Name { name: "Ada".to_owned() };
        assert_eq!(read_json::<Name>(b"{\"ignored\":\"\xff\",\"name\":\"Ada\"}").unwrap(), ada);
    }
}
