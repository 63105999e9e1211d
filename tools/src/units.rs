//! Durations as people write them (`500ms`, `5min`, `24h`) and rates (`10 MB/s`), in flags, configurations and output.

use std::time::Duration;

/// Reads a duration such as `500ms`, `90s`, `5min`, `24h`.
///
/// # Errors
/// When it is not one, or is negative.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let signed: jiff::SignedDuration =
        text.parse().map_err(|e| format!("{text:?} is not a duration such as 500ms, 5min or 24h ({e})"))?;
    Duration::try_from(signed).map_err(|_| format!("{text:?} is negative"))
}

/// A duration in its most telling unit: `4.2 ms`, `1.3 s`, `5 min 3 s`.
#[must_use]
pub fn show_duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        s if s < 0.001 => format!("{:.0} µs", s * 1e6),
        s if s < 1.0 => format!("{:.1} ms", s * 1e3),
        s if s < 60.0 => format!("{s:.1} s"),
        s if s < 3600.0 => format!("{} min {:.0} s", (s / 60.0) as u64, s % 60.0),
        s => format!("{} h {} min", (s / 3600.0) as u64, (s % 3600.0 / 60.0) as u64),
    }
}

/// Bytes in binary units: `3.4 MiB`.
#[must_use]
pub fn show_bytes(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

/// Bytes a second, as people write them: `10 MB/s`, `512 KiB/s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BytesPerSecond(pub u64);

impl std::str::FromStr for BytesPerSecond {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a rate such as \"10 MB/s\" or \"512 KiB/s\"");
        let bytes: bytesize::ByteSize =
            text.strip_suffix("/s").ok_or_else(bad)?.trim_end().parse().map_err(|_| bad())?;
        Ok(Self(bytes.as_u64()))
    }
}

/// Serde of durations in the configuration.
pub mod duration {
    /// An optional duration.
    pub mod option {
        use serde::{Deserialize, Deserializer};
        use std::time::Duration;

        /// Reads `key = "5min"`.
        ///
        /// # Errors
        /// As [`crate::units::parse_duration`].
        pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
            let text = String::deserialize(d)?;
            crate::units::parse_duration(&text).map(Some).map_err(serde::de::Error::custom)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(parse_duration("5min").unwrap(), Duration::from_secs(300));
        assert_eq!(parse_duration("24h").unwrap(), Duration::from_secs(86_400));
        assert_eq!(parse_duration("500ms").unwrap(), Duration::from_millis(500));
        assert!(parse_duration("soon").is_err());
        assert!(parse_duration("-1s").is_err());
    }

    #[test]
    fn rates_are_read_with_their_unit_only() {
        assert_eq!("10 MB/s".parse(), Ok(BytesPerSecond(10_000_000)));
        assert_eq!("512KiB/s".parse(), Ok(BytesPerSecond(512 << 10)));
        assert_eq!("0 B/s".parse(), Ok(BytesPerSecond(0)));
        for bad in ["10 MB", "10 Mbit/s", "fast/s", "/s", "-1 MB/s"] {
            assert!(bad.parse::<BytesPerSecond>().is_err(), "{bad}");
        }
    }
}
