//! The table that is printed.

use std::fmt;

pub const HEAD: &str = "| what | ours | anchor | ratio | goal |\n|---|---|---|---|---|";

/// A row of the table.
pub struct Row {
    pub what: String,
    pub ours: String,
    pub anchor: String,
    /// `None` where the anchor is no measurement.
    pub ratio: Option<f64>,
    pub goal: &'static str,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { what, ours, anchor, goal, .. } = self;
        let ratio = match self.ratio {
            None => String::new(),
            Some(ratio) if ratio < 0.01 => format!("{ratio:.4}"),
            Some(ratio) => format!("{ratio:.2}"),
        };
        write!(f, "| {what} | {ours} | {anchor} | {ratio} | {goal} |")
    }
}

/// Formats a whole number with separators, such as `1,474`.
pub fn grouped(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    if number <= -0.5 { format!("-{text}") } else { text }
}

/// Formats a cost above that of something else, in nanoseconds.
pub fn above(nanoseconds: f64) -> String {
    if nanoseconds <= -0.5 {
        format!("{} ns", grouped(nanoseconds))
    } else {
        format!("+{} ns", grouped(nanoseconds))
    }
}

/// Formats a rate, rounded to three digits or so.
pub fn per_second(rate: f64) -> String {
    format!("{}/s", grouped((rate / 100.0).round() * 100.0))
}
