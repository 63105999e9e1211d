//! How fast a group uploads at most, by the time of day. Pure: words and a time in, a rate out.

use farshore_changelog::units::UnixMicros;
use jiff::civil::Time;
use jiff::tz::TimeZone;

/// The slowest that can be asked for, in bits a second: below it a segment would take hours.
const SLOWEST_BITS: u64 = 64_000;
/// The fastest, 1 Tbit/s.
const FASTEST_BITS: u64 = 1_000_000_000_000;
/// Ranges of a day, at most.
const RANGES_MAX: usize = 24;
/// Units, in bits a second.
const UNITS: [(&str, u64); 4] = [("Gbit/s", 1_000_000_000), ("Mbit/s", 1_000_000), ("kbit/s", 1_000), ("bit/s", 1)];

/// A rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    bits_per_second: u64,
}

impl Rate {
    /// Reads `200 Mbit/s`: a whole number, and one of `bit/s`, `kbit/s`, `Mbit/s`, `Gbit/s`, of 1000 each.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let what_works = "write a whole number with bit/s, kbit/s, Mbit/s or Gbit/s, such as \"200 Mbit/s\"";
        let split = UNITS.iter().find_map(|(unit, bits)| Some((text.strip_suffix(unit)?, bits)));
        let (number, unit) = split.ok_or_else(|| format!("{text:?} has no unit that is known; {what_works}"))?;
        let number = number.trim_end_matches(' ');
        if !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(format!("{text:?} is no rate; {what_works}"));
        }
        let bits: Option<u64> = number.parse().ok().and_then(|n: u64| n.checked_mul(*unit));
        match bits {
            Some(bits) if (SLOWEST_BITS..=FASTEST_BITS).contains(&bits) => Ok(Self { bits_per_second: bits }),
            _ => Err(format!("{text:?} does not lie between 64 kbit/s and 1000 Gbit/s")),
        }
    }

    /// In bytes.
    #[must_use]
    pub fn bytes_per_second(self) -> f64 {
        self.bits_per_second as f64 / 8.0
    }
}

/// A range of the day, and its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hours {
    from: Time,
    /// Not in it. At or before `from`: of the next day.
    to: Time,
    /// `None`: no limit.
    rate: Option<Rate>,
}

impl Hours {
    fn holds(&self, time: Time) -> bool {
        if self.from < self.to { self.from <= time && time < self.to } else { self.from <= time || time < self.to }
    }

    /// Whether a time lies in both: then the beginning of one lies in the other.
    fn meets(&self, other: &Self) -> bool {
        self.holds(other.from) || other.holds(self.from)
    }
}

/// The limit of a group's uploads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bandwidth {
    /// Outside the hours.
    always: Option<Rate>,
    hours: Vec<Hours>,
    zone: TimeZone,
}

impl Default for Bandwidth {
    /// No limit.
    fn default() -> Self {
        Self { always: None, hours: Vec::new(), zone: TimeZone::UTC }
    }
}

impl Bandwidth {
    /// `always`, such as `200 Mbit/s`, but for the `hours`: `08:00-18:00`, by the clocks of `zone`, with a rate or `unlimited`.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn new<'a>(
        always: Option<&str>,
        hours: impl IntoIterator<Item = (&'a str, &'a str)>,
        zone: TimeZone,
    ) -> Result<Self, String> {
        let always = always.map(Rate::parse).transpose()?;
        let mut proved: Vec<(&str, Hours)> = Vec::new();
        for (text, rate) in hours {
            let (from, to) = parse_hours(text)?;
            let rate = if rate == "unlimited" { None } else { Some(Rate::parse(rate)?) };
            let range = Hours { from, to, rate };
            if let Some((other, _)) = proved.iter().find(|(_, other)| other.meets(&range)) {
                return Err(format!("the hours {other} and {text} overlap"));
            }
            proved.push((text, range));
        }
        if proved.len() > RANGES_MAX {
            return Err(format!("{} ranges are more than the {RANGES_MAX} that a day may have", proved.len()));
        }
        Ok(Self { always, hours: proved.into_iter().map(|(_, range)| range).collect(), zone })
    }

    /// Whether there is never a limit.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        self.always.is_none() && self.hours.iter().all(|range| range.rate.is_none())
    }

    /// The limit at this moment; `None`: there is none.
    #[must_use]
    pub fn at(&self, now: UnixMicros) -> Option<Rate> {
        let time = now.timestamp().to_zoned(self.zone.clone()).time();
        self.hours.iter().find(|range| range.holds(time)).map_or(self.always, |range| range.rate)
    }
}

/// Reads `08:00-18:00`.
fn parse_hours(text: &str) -> Result<(Time, Time), String> {
    let bad = || format!("{text:?} are no hours of the day such as 08:00-18:00 or 22:00-06:00");
    let (from, to) = text.split_once('-').ok_or_else(bad)?;
    let (from, to) = (parse_time(from).ok_or_else(bad)?, parse_time(to).ok_or_else(bad)?);
    if from == to {
        return Err(format!("{text:?} begins when it ends; for the whole day set bandwidth"));
    }
    Ok((from, to))
}

/// Reads `08:00`; `24:00` is midnight too.
fn parse_time(text: &str) -> Option<Time> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |text: &str| (text.len() == 2).then(|| text.parse::<i8>().ok()).flatten().filter(|n| *n >= 0);
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let hours = if (hours, minutes) == (24, 0) { 0 } else { hours };
    Time::new(hours, minutes, 0, 0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(bandwidth: &Bandwidth, time: &str) -> Option<u64> {
        let now: jiff::Timestamp = format!("2026-03-04T{time}Z").parse().unwrap();
        bandwidth.at(UnixMicros::from(now)).map(|rate| rate.bits_per_second)
    }

    #[test]
    fn rates_are_read_strictly() {
        for (text, bits) in [
            ("200 Mbit/s", 200_000_000),
            ("200Mbit/s", 200_000_000),
            ("1 Gbit/s", 1_000_000_000),
            ("64 kbit/s", 64_000),
            ("64000 bit/s", 64_000),
        ] {
            assert_eq!(Rate::parse(text).unwrap().bits_per_second, bits, "{text}");
        }
        assert_eq!(Rate::parse("8 Mbit/s").unwrap().bytes_per_second(), 1e6);
        for text in [
            "200",
            "200 mbit/s",
            "200 MBit/s",
            "200 MB/s",
            "200 Mbps",
            "1.5 Mbit/s",
            "-5 Mbit/s",
            "+5 Mbit/s",
            "Mbit/s",
            "",
            " 5 Mbit/s",
            "5 Mbit/s ",
            "0 bit/s",
            "63 kbit/s",
            "1001 Gbit/s",
            "99999999999999999999 Gbit/s",
        ] {
            assert!(Rate::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_hours_are_those_of_the_clocks_and_go_over_midnight() {
        let hours = [("08:00-18:00", "50 Mbit/s"), ("22:30-06:00", "unlimited"), ("18:00-19:00", "1 Gbit/s")];
        let limit = Bandwidth::new(Some("200 Mbit/s"), hours, TimeZone::UTC).unwrap();
        for (time, rate) in [
            ("07:59:59", Some(200_000_000)),
            ("08:00:00", Some(50_000_000)),
            ("17:59:59", Some(50_000_000)),
            ("18:00:00", Some(1_000_000_000)),
            ("19:00:00", Some(200_000_000)),
            ("22:30:00", None),
            ("23:59:59", None),
            ("00:00:00", None),
            ("05:59:59", None),
            ("06:00:00", Some(200_000_000)),
        ] {
            assert_eq!(at(&limit, time), rate, "{time}");
        }
        let east = TimeZone::fixed(jiff::tz::offset(2));
        let local = Bandwidth::new(None, [("08:00-18:00", "50 Mbit/s")], east).unwrap();
        assert_eq!((at(&local, "05:59:00"), at(&local, "06:00:00")), (None, Some(50_000_000)));
        assert_eq!((at(&local, "15:59:00"), at(&local, "16:00:00")), (Some(50_000_000), None));
    }

    #[test]
    fn a_limit_of_nothing_is_none() {
        assert!(Bandwidth::default().is_unlimited());
        let limit = |always, hours: &[(&'static str, &'static str)]| {
            Bandwidth::new(always, hours.iter().copied(), TimeZone::UTC).unwrap().is_unlimited()
        };
        assert!(limit(None, &[("08:00-18:00", "unlimited")]));
        assert!(!limit(Some("1 Gbit/s"), &[("08:00-18:00", "unlimited")]));
        assert!(!limit(None, &[("08:00-18:00", "1 Mbit/s")]));
        assert_eq!(at(&Bandwidth::new(None, [("20:00-24:00", "1 Mbit/s")], TimeZone::UTC).unwrap(), "00:00:00"), None);
    }

    #[test]
    fn hours_that_overlap_or_are_none_are_refused() {
        let refused = |hours: &[(&'static str, &'static str)], word: &str| {
            let why = Bandwidth::new(None, hours.iter().copied(), TimeZone::UTC).unwrap_err();
            assert!(why.contains(word), "{why}");
        };
        refused(&[("08:00-18:00", "1 Mbit/s"), ("17:59-20:00", "2 Mbit/s")], "overlap");
        refused(&[("22:00-06:00", "1 Mbit/s"), ("05:00-07:00", "2 Mbit/s")], "overlap");
        refused(&[("22:00-06:00", "1 Mbit/s"), ("23:00-02:00", "2 Mbit/s")], "overlap");
        refused(&[("10:00-11:00", "1 Mbit/s"), ("09:00-12:00", "2 Mbit/s")], "overlap");
        refused(&[("08:00-08:00", "1 Mbit/s")], "begins when it ends");
        for bad in ["8:00-18:00", "08:00", "08:00-25:00", "08:60-09:00", "08:00–18:00", "24:01-08:00", "-1:00-08:00"]
        {
            refused(&[(bad, "1 Mbit/s")], "hours of the day");
        }
        refused(&[("08:00-18:00", "fast")], "fast");
    }
}
