//! The masters that sentinels name, and the order in which to try them. Pure.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::super::config::RedisAddress;

/// A sentinel's answer: the master of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Report {
    pub(in super::super) master: RedisAddress,
    /// The configuration epoch. Each failover has a higher one than those before.
    pub(super) epoch: u64,
}

impl Report {
    /// Reads the replies to `SENTINEL MASTER` and `SENTINEL GET-MASTER-ADDR-BY-NAME`, or returns
    /// `None` if they lack something.
    ///
    /// Only the second names a replica that is being promoted, on the sentinel that promotes it.
    /// The epoch has been raised by then, so the old address must not be taken from the first.
    pub(super) fn parse(
        fields: &HashMap<String, String>,
        address: Option<&(String, String)>,
    ) -> Option<Self> {
        let (host, port) = address?;
        let epoch = fields.get("config-epoch")?.parse().ok()?;
        Some(Report { master: RedisAddress::tcp(host, port.parse().ok()?), epoch })
    }
}

/// Returns each report once, in the order in which to try the masters: first that of the latest
/// failover, and of two in the same epoch, the one that more sentinels name.
///
/// A sentinel that was cut off from the others still names an old master, which may still act as
/// one.
pub(super) fn rank(reports: impl IntoIterator<Item = Report>) -> Vec<Report> {
    // Each report with the number of sentinels that give it.
    let mut ranked: Vec<(Report, usize)> = Vec::new();
    for report in reports {
        match ranked.iter_mut().find(|(known, _)| *known == report) {
            Some((_, given)) => *given += 1,
            None => ranked.push((report, 1)),
        }
    }
    ranked.sort_by_key(|(report, given)| Reverse((report.epoch, *given)));
    ranked.into_iter().map(|(report, _)| report).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(host: &str, epoch: u64) -> Report {
        Report { master: RedisAddress::tcp(host, 6379), epoch }
    }

    #[test]
    fn the_master_of_the_latest_failover_is_tried_first() {
        let ranked = rank([report("old", 4), report("old", 4), report("new", 5), report("old", 3)]);
        assert_eq!(ranked, [report("new", 5), report("old", 4), report("old", 3)]);
    }

    #[test]
    fn of_two_masters_in_one_epoch_the_one_that_more_sentinels_name_is_tried_first() {
        let ranked = rank([report("one", 5), report("two", 5), report("two", 5)]);
        assert_eq!(ranked, [report("two", 5), report("one", 5)]);
        assert_eq!(rank([]), []);
    }

    #[test]
    fn a_report_has_the_epoch_of_one_reply_and_the_address_of_the_other() {
        let text = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let fields = HashMap::from([("ip", "10.0.0.1"), ("config-epoch", "7")].map(text));
        let address = text(("10.0.0.7", "6379"));
        assert_eq!(Report::parse(&fields, Some(&address)), Some(report("10.0.0.7", 7)));
        assert_eq!(Report::parse(&HashMap::new(), Some(&address)), None);
        assert_eq!(Report::parse(&fields, None), None);
        assert_eq!(Report::parse(&fields, Some(&text(("10.0.0.7", "65536")))), None);
    }
}
