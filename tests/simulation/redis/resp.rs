//! The protocol of Redis, as much of it as the simulated servers speak.

pub(super) fn integer(number: u64) -> Vec<u8> {
    format!(":{number}\r\n").into()
}

pub(super) fn bulk(bytes: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

pub(super) fn array(items: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    sequence('*', items)
}

/// Encodes a message that is no reply.
pub(super) fn push(parts: &[&[u8]]) -> Vec<u8> {
    sequence('>', parts.iter().map(|part| bulk(part)))
}

fn sequence(kind: char, items: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let items: Vec<_> = items.into_iter().collect();
    [format!("{kind}{}\r\n", items.len()).into(), items.concat()].concat()
}

pub(super) fn number(text: &[u8]) -> u64 {
    std::str::from_utf8(text).unwrap().parse().unwrap()
}

/// Takes a whole command from the front of what has arrived, if there is one.
pub(super) fn take_command(buffer: &mut Vec<u8>) -> Option<Vec<Vec<u8>>> {
    let mut rest = buffer.as_slice();
    let count = take_length(&mut rest, b'*')?;
    let mut parts = Vec::new();
    for _ in 0..count {
        let length = take_length(&mut rest, b'$')?;
        parts.push(rest.get(..length)?.to_vec());
        rest = rest.get(length + 2..)?;
    }
    let taken = buffer.len() - rest.len();
    buffer.drain(..taken);
    Some(parts)
}

/// Takes a line with a length.
fn take_length(rest: &mut &[u8], prefix: u8) -> Option<usize> {
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    assert_eq!(rest[0], prefix, "commands are arrays of strings");
    let length = number(&rest[1..end]) as usize;
    *rest = &rest[end + 2..];
    Some(length)
}
