//! Pure: a strict RFC 8259 scanner that finds where values lie, and the few things that are done with their text.
//!
//! Why not `serde_json`: its `Value` rewrites numbers and drops duplicate keys, its raw values cannot say where they
//! stood, and both stop at a depth of 128. Here a document is never taken apart: values are byte ranges of the text,
//! nesting costs one byte a level on the heap, and whoever changes something changes only those bytes.
//!
//! Accepted is exactly what `JSON.parse` accepts, so lone surrogates in escapes pass; they are replaced when decoded.

use std::borrow::Cow;

/// Deepest value that is still laid out over several lines. Beyond it indentation would outweigh the content, so such
/// a value is written on one line.
const DEEPEST_LAYOUT: usize = 64;

/// A byte range of the scanned text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    pub(crate) const EMPTY: Self = Self { start: 0, end: 0 };

    fn new(start: usize, end: usize) -> Self {
        Self { start: narrow(start), end: narrow(end) }
    }

    pub(crate) fn start(self) -> usize {
        wide(self.start)
    }

    pub(crate) fn end(self) -> usize {
        wide(self.end)
    }

    pub(crate) fn of(self, text: &str) -> &str {
        &text[self.start()..self.end()]
    }

    /// Returns the span of a whole text, which the caller has from a scanner.
    pub(crate) fn whole(text: &str) -> Self {
        Self::new(0, text.len())
    }

    /// Returns where the same bytes stand in a text that begins with those of `outer`.
    pub(crate) fn within(self, outer: Self) -> Self {
        Self { start: self.start.saturating_sub(outer.start), end: self.end.saturating_sub(outer.start) }
    }
}

/// Offsets are kept in 32 bits: [`Scanner::new`] refuses longer texts, so nothing is cut here.
pub(crate) fn narrow(offset: usize) -> u32 {
    u32::try_from(offset).unwrap_or(u32::MAX)
}

pub(crate) fn wide(offset: u32) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// A member of an object: its key with the quotes, and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) key: Span,
    pub(crate) value: Span,
}

/// What is wrong, and at which byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) offset: usize,
    pub(crate) message: Cow<'static, str>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Container {
    Object,
    Array,
}

/// Walks over one text; every method leaves it behind what it has checked.
#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(text: &'a str) -> Result<Self, Fault> {
        if u32::try_from(text.len()).is_err() {
            return Err(Fault { offset: 0, message: Cow::Borrowed("the text is longer than 4 GiB") });
        }
        Ok(Self { text, bytes: text.as_bytes(), at: 0 })
    }

    /// Checks that the text is one value with nothing but white space around it.
    pub(crate) fn whole(text: &'a str) -> Result<Span, Fault> {
        let mut scanner = Self::new(text)?;
        scanner.white_space();
        let span = scanner.value()?;
        scanner.finish()?;
        Ok(span)
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    pub(crate) fn offset(&self) -> usize {
        self.at
    }

    pub(crate) fn fault<T>(&self, message: impl Into<Cow<'static, str>>) -> Result<T, Fault> {
        Err(Fault { offset: self.at, message: message.into() })
    }

    fn unexpected<T>(&self, wanted: &str) -> Result<T, Fault> {
        match self.text[self.at..].chars().next() {
            None => self.fault(format!("the text ends where {wanted} should be")),
            Some(found) => self.fault(format!("found {found:?} where {wanted} should be")),
        }
    }

    pub(crate) fn white_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    /// Checks that only white space is left.
    pub(crate) fn finish(&mut self) -> Result<(), Fault> {
        self.white_space();
        if self.at == self.bytes.len() { Ok(()) } else { self.unexpected("the end of the text") }
    }

    /// Walks over an object; `value` is called in front of every value and has to walk over it.
    pub(crate) fn object(
        &mut self,
        mut value: impl FnMut(&mut Self, Span) -> Result<(), Fault>,
    ) -> Result<Span, Fault> {
        let start = self.at;
        if self.open_is_empty(b'}') {
            return Ok(Span::new(start, self.at));
        }
        loop {
            let key = self.key()?;
            value(self, key)?;
            if self.next_or_close(Container::Object)? {
                return Ok(Span::new(start, self.at));
            }
        }
    }

    /// Walks over an array; `element` is called in front of every element and has to walk over it.
    pub(crate) fn array(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<(), Fault>,
    ) -> Result<Span, Fault> {
        let start = self.at;
        if self.open_is_empty(b']') {
            return Ok(Span::new(start, self.at));
        }
        loop {
            element(self)?;
            if self.next_or_close(Container::Array)? {
                return Ok(Span::new(start, self.at));
            }
        }
    }

    /// Walks over one value of any kind and depth.
    pub(crate) fn value(&mut self) -> Result<Span, Fault> {
        let start = self.at;
        let mut open: Vec<Container> = Vec::new();
        loop {
            match self.peek() {
                Some(b'"') => drop(self.string()?),
                Some(b'{') => {
                    if !self.open_is_empty(b'}') {
                        open.push(Container::Object);
                        self.key()?;
                        continue;
                    }
                }
                Some(b'[') => {
                    if !self.open_is_empty(b']') {
                        open.push(Container::Array);
                        continue;
                    }
                }
                Some(b'-' | b'0'..=b'9') => self.number()?,
                Some(b't') => self.literal("true")?,
                Some(b'f') => self.literal("false")?,
                Some(b'n') => self.literal("null")?,
                Some(_) | None => return self.unexpected("a value"),
            }
            loop {
                let Some(&container) = open.last() else {
                    return Ok(Span::new(start, self.at));
                };
                if self.next_or_close(container)? {
                    open.pop();
                } else {
                    if container == Container::Object {
                        self.key()?;
                    }
                    break;
                }
            }
        }
    }

    /// Steps into a container; steps out of it again and says so when nothing is in it.
    fn open_is_empty(&mut self, close: u8) -> bool {
        self.at += 1;
        self.white_space();
        let empty = self.peek() == Some(close);
        if empty {
            self.at += 1;
        }
        empty
    }

    /// Behind an element: steps to the next one, or out of the container and says so.
    fn next_or_close(&mut self, container: Container) -> Result<bool, Fault> {
        self.white_space();
        match (self.peek(), container) {
            (Some(b','), Container::Object | Container::Array) => {
                self.at += 1;
                self.white_space();
                Ok(false)
            }
            (Some(b'}'), Container::Object) | (Some(b']'), Container::Array) => {
                self.at += 1;
                Ok(true)
            }
            (Some(_) | None, Container::Object) => self.unexpected("a comma or a closing brace"),
            (Some(_) | None, Container::Array) => self.unexpected("a comma or a closing bracket"),
        }
    }

    /// Walks over a key, its colon and the white space around that.
    fn key(&mut self) -> Result<Span, Fault> {
        if self.peek() != Some(b'"') {
            return self.unexpected("a key in double quotes");
        }
        let key = self.string()?;
        self.white_space();
        if self.peek() != Some(b':') {
            return self.unexpected("a colon");
        }
        self.at += 1;
        self.white_space();
        Ok(key)
    }

    fn string(&mut self) -> Result<Span, Fault> {
        let start = self.at;
        self.at += 1;
        loop {
            self.at = plain_run(self.bytes, self.at);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Span::new(start, self.at));
                }
                Some(b'\\') => self.escape()?,
                Some(0x00..=0x1f) => return self.unexpected("a character of a string"),
                Some(_) => self.at += 1,
                None => return self.fault("the text ends inside a string"),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Fault> {
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                self.at += 1;
                for _digit in 0..4 {
                    if !self.peek().is_some_and(|b| b.is_ascii_hexdigit()) {
                        return self.unexpected("a hexadecimal digit of an escape");
                    }
                    self.at += 1;
                }
            }
            Some(_) | None => return self.unexpected("one of \" \\ / b f n r t u"),
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), Fault> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Fault> {
        let start = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start { self.unexpected("a digit") } else { Ok(()) }
    }

    fn literal(&mut self, word: &str) -> Result<(), Fault> {
        if self.bytes[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            return Ok(());
        }
        self.unexpected("a value")
    }
}

/// Returns where the run of bytes that mean themselves inside a string stops, at the earliest; eight bytes a step.
fn plain_run(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let zero_bytes = |word: u64| word.wrapping_sub(ONES) & !word & HIGH;
    while let Some(chunk) = bytes[at..].first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk);
        let quotes = zero_bytes(word ^ (ONES * 0x22));
        let backslashes = zero_bytes(word ^ (ONES * 0x5c));
        let controls = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
        let hits = quotes | backslashes | controls;
        if hits != 0 {
            return at + wide(hits.trailing_zeros() / 8);
        }
        at += 8;
    }
    at
}

/// Decodes a string with its quotes; nothing when `raw` is another kind of value.
///
/// Surrogates without their partner become U+FFFD.
pub(crate) fn decoded(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if !inner.contains('\\') {
        return Some(Cow::Borrowed(inner));
    }
    let mut out = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(backslash) = rest.find('\\') {
        out.push_str(&rest[..backslash]);
        rest = &rest[backslash + 1..];
        let (character, length) = escaped(rest);
        out.push(character);
        rest = &rest[length..];
    }
    out.push_str(rest);
    Some(Cow::Owned(out))
}

/// Reads what follows a backslash: the character and how many bytes it takes.
fn escaped(rest: &str) -> (char, usize) {
    let plain = match rest.as_bytes().first() {
        Some(b'u') => return escaped_unicode(rest),
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(&other) => char::from(other),
        None => return (char::REPLACEMENT_CHARACTER, 0),
    };
    (plain, 1)
}

fn escaped_unicode(rest: &str) -> (char, usize) {
    let unit = |at: usize| rest.get(at..at + 4).and_then(|digits| u16::from_str_radix(digits, 16).ok());
    let Some(first) = unit(1) else {
        return (char::REPLACEMENT_CHARACTER, 1);
    };
    if let Some(character) = char::from_u32(u32::from(first)) {
        return (character, 5);
    }
    let second = if rest.get(5..7) == Some("\\u") { unit(7) } else { None };
    match char::decode_utf16([Some(first), second].into_iter().flatten()).next() {
        Some(Ok(character)) => (character, 11),
        Some(Err(_)) | None => (char::REPLACEMENT_CHARACTER, 5),
    }
}

/// Says whether a key, with its quotes, spells `name`.
pub(crate) fn spells(raw_key: &str, name: &str) -> bool {
    let [b'"', inner @ .., b'"'] = raw_key.as_bytes() else {
        return false;
    };
    match (inner.first(), name.as_bytes().first()) {
        // Most keys are told apart by how they begin.
        (Some(begins), Some(wanted)) if begins != wanted && *begins != b'\\' => false,
        _ => {
            let may_be_escaped = inner.len() > name.len() && inner.contains(&b'\\');
            inner == name.as_bytes() || may_be_escaped && decoded(raw_key).is_some_and(|key| key == name)
        }
    }
}

/// Returns the member named `key`; of several the last one counts, as in `JSON.parse`.
pub(crate) fn last_named<'m>(text: &str, members: &'m [Member], key: &str) -> Option<&'m Member> {
    members.iter().rev().find(|member| spells(member.key.of(text), key))
}

/// Returns all members in order: decoded key and JSON text.
pub(crate) fn decoded_members<'a>(
    text: &'a str,
    members: &'a [Member],
) -> impl ExactSizeIterator<Item = (Cow<'a, str>, &'a str)> + use<'a> {
    members.iter().map(move |member| {
        let key = decoded(member.key.of(text)).unwrap_or_default();
        (key, member.value.of(text))
    })
}

/// Returns the JSON string that stands for `text`, quotes included, escaped no more than needed.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    push_quoted(&mut out, text);
    out
}

/// Appends the JSON string that stands for `text`, as [`quoted`] returns it.
pub(crate) fn push_quoted(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\0'..='\u{1f}' => {
                const DIGITS: [char; 16] =
                    ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
                let code = u32::from(character);
                out.push_str("\\u00");
                out.push(DIGITS[wide(code >> 4)]);
                out.push(DIGITS[wide(code & 15)]);
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

/// How containers are spread over lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout<'a> {
    /// No white space at all.
    Compact,
    /// A line per member, as `JSON.stringify(value, null, unit)` does.
    Lines {
        /// How a line ends.
        newline: &'a str,
        /// One level of indentation.
        unit: &'a str,
        /// Indentation of the line on which the value stands.
        base: &'a str,
    },
}

/// Lays a value out anew. Strings and numbers keep their spelling.
pub(crate) fn laid_out(raw: &str, layout: Layout<'_>) -> String {
    let mut out = String::with_capacity(raw.len() + raw.len() / 4);
    push_laid_out(&mut out, raw, layout);
    out
}

/// Appends a value laid out anew, as [`laid_out`] returns it.
pub(crate) fn push_laid_out(out: &mut String, raw: &str, layout: Layout<'_>) {
    if !raw.starts_with(['{', '[', ' ', '\n', '\r', '\t']) {
        return out.push_str(raw.trim_ascii_end());
    }
    let layout = if depth(raw) > DEEPEST_LAYOUT { Layout::Compact } else { layout };
    let bytes = raw.as_bytes();
    let mut level = 0_usize;
    let mut at = 0;
    let break_line = |out: &mut String, level: usize| {
        if let Layout::Lines { newline, unit, base } = layout {
            out.push_str(newline);
            out.push_str(base);
            for _level in 0..level {
                out.push_str(unit);
            }
        }
    };
    while let Some(&byte) = bytes.get(at) {
        let start = at;
        at += 1;
        match byte {
            b' ' | b'\n' | b'\r' | b'\t' => {}
            b'{' | b'[' => {
                out.push(char::from(byte));
                at += bytes[at..].iter().take_while(|b| b.is_ascii_whitespace()).count();
                if let Some(&close @ (b'}' | b']')) = bytes.get(at) {
                    out.push(char::from(close));
                    at += 1;
                } else {
                    level += 1;
                    break_line(out, level);
                }
            }
            b'}' | b']' => {
                level = level.saturating_sub(1);
                break_line(out, level);
                out.push(char::from(byte));
            }
            b',' => {
                out.push(',');
                break_line(out, level);
            }
            b':' => out.push_str(if layout == Layout::Compact { ":" } else { ": " }),
            b'"' => {
                at = string_end(bytes, at);
                out.push_str(&raw[start..at]);
            }
            _ => {
                let scalar = |b: &u8| !matches!(b, b' ' | b'\n' | b'\r' | b'\t' | b',' | b'}' | b']');
                at += bytes[at..].iter().take_while(|b| scalar(b)).count();
                out.push_str(&raw[start..at]);
            }
        }
    }
}

/// Returns the offset behind the closing quote of a string whose inside starts at `at`.
fn string_end(bytes: &[u8], mut at: usize) -> usize {
    loop {
        at = plain_run(bytes, at);
        match bytes.get(at) {
            Some(b'"') => return at + 1,
            Some(b'\\') => at = (at + 2).min(bytes.len()),
            Some(_) => at += 1,
            None => return at,
        }
    }
}

fn depth(raw: &str) -> usize {
    let bytes = raw.as_bytes();
    let (mut at, mut level, mut deepest) = (0, 0_usize, 0);
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'"' => at = string_end(bytes, at),
            b'{' | b'[' => {
                level += 1;
                deepest = deepest.max(level);
            }
            b'}' | b']' => level = level.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Says whether two values are the same, however they are laid out and escaped. Numbers count by their spelling.
pub(crate) fn is_same(left: &str, right: &str) -> bool {
    if left == right {
        return true;
    }
    match (left.as_bytes().first(), right.as_bytes().first()) {
        (Some(b'"'), Some(b'"')) => decoded(left) == decoded(right),
        (Some(b'{'), Some(b'{')) | (Some(b'['), Some(b'[')) => {
            laid_out(left, Layout::Compact) == laid_out(right, Layout::Compact)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Texts near JSON: its own characters, shuffled.
    fn almost_json() -> impl Strategy<Value = String> {
        let token = prop_oneof![
            Just("{"),
            Just("}"),
            Just("["),
            Just("]"),
            Just(","),
            Just(":"),
            Just("\"a\""),
            Just("\"\\u00e4\\ud800\""),
            Just("\"\\x\""),
            Just("\"\u{1}\""),
            Just("1"),
            Just("-0.5e+7"),
            Just("01"),
            Just("1."),
            Just("-"),
            Just("1E400"),
            Just("true"),
            Just("nul"),
            Just("null"),
            Just(" "),
            Just("\n"),
            Just("\u{a0}"),
            Just("ä"),
        ];
        proptest::collection::vec(token, 0..12).prop_map(|tokens| tokens.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1500))]

        #[test]
        fn accepts_what_serde_json_accepts(text in almost_json()) {
            let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            prop_assert_eq!(Scanner::whole(&text).is_ok(), theirs, "{}", text);
        }

        #[test]
        fn strings_survive_quoting_and_decoding(text in any::<String>()) {
            let raw = quoted(&text);
            prop_assert_eq!(decoded(&raw).unwrap(), text.as_str());
            prop_assert_eq!(serde_json::from_str::<String>(&raw).unwrap(), text);
        }
    }

    #[test]
    fn ten_thousand_levels_need_no_stack() {
        let text = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(Scanner::whole(&text).is_ok());
        assert_eq!(laid_out(&text, Layout::Lines { newline: "\n", unit: "  ", base: "" }), text);
        assert!(Scanner::whole(&text[..19_999]).is_err());
    }

    #[test]
    fn surrogates_pair_up_or_are_replaced() {
        assert_eq!(decoded(r#""\ud83d\ude00""#).unwrap(), "😀");
        assert_eq!(decoded(r#""\ud83dx\ude00""#).unwrap(), "\u{fffd}x\u{fffd}");
        assert_eq!(decoded(r#""\ud83d\u0041""#).unwrap(), "\u{fffd}A");
    }

    #[test]
    fn layout_is_that_of_json_stringify() {
        let raw = r#"{"a":[1,{"b":"x,{}"}],"c":{},"d":[ ]}"#;
        let lines = Layout::Lines { newline: "\n", unit: "  ", base: "" };
        let value: serde_json::Value = serde_json::from_str(raw).unwrap();
        assert_eq!(laid_out(raw, lines), serde_json::to_string_pretty(&value).unwrap());
        assert_eq!(laid_out(&laid_out(raw, lines), Layout::Compact), raw.replace(' ', ""));
    }
}
