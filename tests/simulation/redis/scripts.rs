//! The scripts of the backend, as a simulated server carries them out.
//!
//! They are told apart by their text and carried out in Rust. That they do on a real server what
//! they do here is shown by the tests on real servers.

use std::time::Duration;

use tokio::time::Instant;

use super::resp::{array, bulk, integer, number};
use super::server::{Entry, Info, NOPERM, NOREPLICAS, READONLY, Server};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Script {
    Update,
    Delete,
    DeleteIf,
    Touch,
    Clear,
    Publish,
    Heartbeat,
    HeartbeatWithoutWriting,
    LoadWithoutWriting,
}

impl Script {
    fn of(code: &str) -> Self {
        let is_write = code.starts_with("#!lua");
        let has = |part: &str| code.contains(part);
        match () {
            () if !is_write && has("PUBLISH") => Script::HeartbeatWithoutWriting,
            () if !is_write => Script::LoadWithoutWriting,
            () if has("'INFO'") => Script::Heartbeat,
            () if has("SETRANGE") => Script::Touch,
            () if has("UNLINK") => Script::Clear,
            () if has("'SET'") => Script::Update,
            () if has("revision ~= ''") => Script::DeleteIf,
            () if has("'DEL'") => Script::Delete,
            () if has("'PUBLISH', ARGV[1], ARGV[2]") => Script::Publish,
            () => panic!("the simulated server does not know this script: {code}"),
        }
    }

    fn writes(self) -> bool {
        !matches!(self, Script::HeartbeatWithoutWriting | Script::LoadWithoutWriting)
    }
}

impl Server {
    /// Carries out `EVALSHA` or `EVAL`.
    pub(super) fn run_script(&mut self, name: &str, args: &[Vec<u8>]) -> Vec<u8> {
        let text = String::from_utf8_lossy(&args[0]).into_owned();
        let script = if name == "EVAL" {
            let script = Script::of(&text);
            self.scripts.insert(redis::Script::new(&text).get_hash().to_owned(), script);
            script
        } else {
            match self.scripts.get(&text) {
                Some(script) => *script,
                None => return "-NOSCRIPT No matching script.\r\n".into(),
            }
        };
        if script.writes() {
            if let Some(refusal) = self.refusal() {
                return refusal.into();
            }
            if self.refuses_changes && script != Script::Heartbeat {
                return NOREPLICAS.into();
            }
        } else if self.info != Info::Everywhere {
            return NOPERM.into();
        } else if !self.is_master {
            return READONLY.into();
        }
        let (keys, args) = args[2..].split_at(number(&args[1]) as usize);
        match script {
            Script::Heartbeat | Script::HeartbeatWithoutWriting => {
                self.heartbeat(script, keys.first(), args)
            }
            _ => self.change(script, keys, args),
        }
    }

    fn heartbeat(&mut self, script: Script, key: Option<&Vec<u8>>, args: &[Vec<u8>]) -> Vec<u8> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let number = text(&args[2]);
        let kept = key.and_then(|key| self.live(key)).map_or("0".into(), |it| text(&it.value));
        let state = match key {
            Some(key) if script == Script::Heartbeat => {
                self.put(key, number.as_bytes(), &args[0]);
                format!("{kept} {number}")
            }
            _ => format!("{kept} {kept}"),
        };
        let message = match self.info {
            Info::Everywhere => format!("{number} {:040x} 1 {state}", self.history),
            Info::OutsideScripts => format!("{number} - 1 {state}"),
            Info::Nowhere => format!("{number} -  {state}"),
        };
        match &*args[3] {
            b"SPUBLISH" => self.publish_here(&args[1], message.as_bytes()),
            _ => self.publish(&args[1], message.as_bytes()),
        }
        "+OK\r\n".into()
    }

    fn change(&mut self, script: Script, keys: &[Vec<u8>], args: &[Vec<u8>]) -> Vec<u8> {
        let key = &keys[0];
        let current = self.live(key).map(|entry| entry.value);
        let revision = current.as_ref().and_then(|value| Some(value.get(2..18)?.to_vec()));
        match script {
            Script::Update => {
                let Some(revision) = revision else { return integer(0) };
                if revision == args[1] {
                    return integer(1);
                }
                if revision != args[0] {
                    return bulk(&current.unwrap());
                }
                self.publish(&args[4], &args[5]);
                self.put(key, &args[2], &args[3]);
                integer(1)
            }
            Script::Delete => {
                self.publish(&args[0], &args[1]);
                match current {
                    Some(tombstone) if tombstone[1] == 1 => bulk(&tombstone[67..]),
                    current => {
                        self.keys().remove(key);
                        integer(current.is_some().into())
                    }
                }
            }
            Script::DeleteIf => {
                if revision.is_some_and(|revision| revision != args[0]) {
                    return bulk(&current.unwrap());
                }
                self.publish(&args[1], &args[2]);
                integer(self.keys().remove(key).is_some().into())
            }
            Script::Touch => {
                let Some(mut value) = current.filter(|value| value[1] == 0) else {
                    return integer(0);
                };
                let expires = Instant::now() + Duration::from_millis(number(&args[2]));
                let mut keys = self.keys();
                let expires = expires.max(keys[key].expires);
                if args[0][..] > value[26..34] {
                    value[26..34].copy_from_slice(&args[0]);
                }
                value[34..42].copy_from_slice(&args[1]);
                keys.insert(key.to_vec(), Entry { value, expires });
                integer(1)
            }
            Script::Clear => {
                self.publish(&args[0], &args[1]);
                let mut data = self.keys();
                let removed = keys.iter().filter_map(|key| data.remove(key));
                let (tombstones, sessions): (Vec<_>, Vec<_>) =
                    removed.filter(Entry::is_live).partition(|entry| entry.value[1] == 1);
                let moved = tombstones.iter().map(|entry| bulk(&entry.value[67..]));
                array([integer(sessions.len() as u64), array(moved)])
            }
            Script::Publish => {
                self.publish(&args[0], &args[1]);
                "+OK\r\n".into()
            }
            Script::LoadWithoutWriting => self.get(key),
            Script::Heartbeat | Script::HeartbeatWithoutWriting => unreachable!("it is no change"),
        }
    }
}
