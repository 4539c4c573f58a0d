//! `strftime_now`: today's date, for templates that write it into their prompts.

use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::{Error as JinjaError, ErrorKind};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// C's `strftime` for the fields templates use, in UTC.
pub(super) fn strftime(format: &str, now: SystemTime) -> Result<String, JinjaError> {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_from_days(days);
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    let (january_first, weekday) = (days_from_civil(year, 1, 1), (days + 3) % 7);
    let month_name = MONTHS[month as usize - 1];
    let weekday_name = WEEKDAYS[weekday as usize];
    let mut out = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let mut field = characters.next();
        let padded = field != Some('-');
        if !padded {
            field = characters.next();
        }
        let number =
            |value: u64, width: usize| if padded { format!("{value:0width$}") } else { value.to_string() };
        let text = match field {
            Some('Y') => year.to_string(),
            Some('y') => number(year % 100, 2),
            Some('m') => number(month, 2),
            Some('d') => number(day, 2),
            Some('e') => format!("{day:2}"),
            Some('H') => number(hour, 2),
            Some('I') => number((hour + 11) % 12 + 1, 2),
            Some('M') => number(minute, 2),
            Some('S') => number(second, 2),
            Some('p') => (if hour < 12 { "AM" } else { "PM" }).to_string(),
            Some('j') => number(days - january_first + 1, 3),
            Some('B') => month_name.to_string(),
            Some('b') => month_name[..3].to_string(),
            Some('A') => weekday_name.to_string(),
            Some('a') => weekday_name[..3].to_string(),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => "UTC".to_string(),
            Some('z') => "+0000".to_string(),
            Some('%') => "%".to_string(),
            other => {
                let field = other.map_or(String::new(), String::from);
                let reason = format!("strftime_now does not know the field `%{field}`");
                return Err(JinjaError::new(ErrorKind::InvalidOperation, reason));
            }
        };
        out.push_str(&text);
    }
    Ok(out)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

/// Days from 1970-01-01 to a date of that year or later.
fn days_from_civil(year: u64, month: u64, day: u64) -> u64 {
    let before = year - 1;
    let leap_days = (before / 4 - before / 100 + before / 400) - (1969 / 4 - 1969 / 100 + 1969 / 400);
    let months: u64 = (1..month).map(|month| days_in_month(year, month)).sum();
    (year - 1970) * 365 + leap_days + months + day - 1
}

fn days_in_month(year: u64, month: u64) -> u64 {
    match month {
        2 => 28 + u64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn civil_from_days(days: u64) -> (u64, u64, u64) {
    // A first guess that is never too late by more than a year or so, then the way forward.
    let mut year = 1970 + days / 366;
    while days_from_civil(year + 1, 1, 1) <= days {
        year += 1;
    }
    let mut month = 1;
    while month < 12 && days_from_civil(year, month + 1, 1) <= days {
        month += 1;
    }
    (year, month, days - days_from_civil(year, month, 1) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_are_written_as_strftime_does() {
        // date -u -d @SECONDS '+…'
        let cases = [
            (0, "1970-01-01 00:00:00 Thu January 001 12 AM"),
            (951_782_399, "2000-02-28 23:59:59 Mon February 059 11 PM"),
            (951_782_400, "2000-02-29 00:00:00 Tue February 060 12 AM"),
            (1_735_689_599, "2024-12-31 23:59:59 Tue December 366 11 PM"),
            (1_735_689_600, "2025-01-01 00:00:00 Wed January 001 12 AM"),
            (4_107_542_400, "2100-03-01 00:00:00 Mon March 060 12 AM"),
        ];
        for (seconds, expected) in cases {
            let now = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(strftime("%Y-%m-%d %T %a %B %j %I %p", now).unwrap(), expected);
        }
        let now = UNIX_EPOCH + Duration::from_secs(1_735_689_600 + 3_661);
        assert_eq!(strftime("%-d %b %Y, %-H:%-M%%", now).unwrap(), "1 Jan 2025, 1:1%");
        assert!(strftime("%Q", now).is_err());
        assert!(strftime("%", now).is_err());
    }
}
