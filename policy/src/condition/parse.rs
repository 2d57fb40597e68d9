//! From text to tree, from left to right. Every error says at which character, and what would be right there. What is
//! accepted has one reading, which is CEL's.

use std::vec;

use super::{
    Attribute, Node, PortTest, Test,
    text::TextTest,
    token::{Token, Word, invalid, tokens},
};
use crate::{InvalidValue, limits, spelling};

/// Reads a whole expression.
pub(super) fn expression(text: &str) -> Result<Node, InvalidValue> {
    let tokens = tokens(text)?;
    let end = text.chars().count().saturating_add(1);
    let mut parser = Parser { rest: tokens.into_iter(), end };
    let node = parser.any(0)?;
    match parser.peek() {
        None => Ok(node),
        Some(_) => Err(parser.expected("`&&`, `||` or the end")),
    }
}

struct Parser {
    rest: vec::IntoIter<Token>,
    /// Behind the last character.
    end: usize,
}

/// What a test asks about.
enum Subject {
    Port,
    Text(Texts),
}

/// What has texts as its values.
enum Texts {
    Header(Box<str>),
    Host,
    One(Attribute),
}

const NAMES: [&str; 9] = [
    "request.headers",
    "request.host",
    "request.method",
    "request.path",
    "source.principal",
    "source.trustDomain",
    "source.namespace",
    "source.serviceAccount",
    "destination.port",
];
const FUNCTIONS: [&str; 3] = ["startsWith", "endsWith", "contains"];
/// Fields that belong to one hop: the sidecar takes them off before it judges.
const OF_ONE_HOP: [&str; 9] = [
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

impl Parser {
    fn any(&mut self, depth: usize) -> Result<Node, InvalidValue> {
        let mut nodes = vec![self.all(depth)?];
        while self.take("||") {
            nodes.push(self.all(depth)?);
        }
        Ok(joined(nodes, Node::Any))
    }

    fn all(&mut self, depth: usize) -> Result<Node, InvalidValue> {
        let mut nodes = vec![self.one(depth)?];
        while self.take("&&") {
            nodes.push(self.one(depth)?);
        }
        Ok(joined(nodes, Node::All))
    }

    fn one(&mut self, depth: usize) -> Result<Node, InvalidValue> {
        match self.peek() {
            Some(Word::Sign("!")) => self.negated(depth),
            Some(Word::Sign("(")) => self.enclosed(depth),
            Some(Word::Text(_)) => self.presence(),
            _ => self.test(),
        }
    }

    /// In CEL `!a == b` is `(!a) == b`, which nobody means: a comparison behind `!` stands in parentheses.
    fn negated(&mut self, depth: usize) -> Result<Node, InvalidValue> {
        let below = self.deeper(depth)?;
        self.expect("!")?;
        let node = match self.peek() {
            Some(Word::Sign("!")) => self.negated(below)?,
            Some(Word::Sign("(")) => self.enclosed(below)?,
            _ => {
                let at = self.at();
                let subject = self.subject()?;
                if !self.take(".") {
                    return Err(invalid(at, "behind `!` a comparison stands in parentheses"));
                }
                self.call(subject)?
            }
        };
        Ok(Node::Not(Box::new(node)))
    }

    fn enclosed(&mut self, depth: usize) -> Result<Node, InvalidValue> {
        let below = self.deeper(depth)?;
        self.expect("(")?;
        let node = self.any(below)?;
        self.expect(")")?;
        Ok(node)
    }

    fn deeper(&self, depth: usize) -> Result<usize, InvalidValue> {
        let most = limits::CONDITION_DEPTH;
        let too_deep = || invalid(self.at(), &format!("parentheses and negations nest at most {most} deep"));
        (depth < most).then(|| depth.saturating_add(1)).ok_or_else(too_deep)
    }

    /// `"x-tenant" in request.headers`
    fn presence(&mut self) -> Result<Node, InvalidValue> {
        let name = self.header_name()?;
        if !self.take_name("in") {
            return Err(self.expected("`in request.headers`: a comparison begins with what is compared"));
        }
        let at = self.at();
        match self.name()?.as_str() {
            "request.headers" => Ok(Node::Test(Test::HasHeader(name))),
            _ => Err(invalid(at, "only `request.headers` can be asked for what is in it")),
        }
    }

    fn test(&mut self) -> Result<Node, InvalidValue> {
        let subject = self.subject()?;
        if self.take(".") {
            return self.call(subject);
        }
        if self.take_name("in") {
            return self.membership(subject);
        }
        let at = self.at();
        let Some(Word::Sign(sign @ ("==" | "!=" | "<" | "<=" | ">" | ">="))) = self.next() else {
            return Err(invalid(at, "expected a comparison, `in`, or a function"));
        };
        match subject {
            Subject::Port => {
                let port = self.port()?;
                port_test(sign, port).ok_or_else(|| invalid(at, "no port, or every port, is meant by this"))
            }
            Subject::Text(texts) => {
                let test = TextTest::OneOf([self.text()?].into());
                let equal = Node::Test(texts.with(test));
                match sign {
                    "==" => Ok(equal),
                    "!=" => Ok(Node::Not(Box::new(equal))),
                    _ => Err(invalid(at, "texts have no order: only `==` and `!=` compare them")),
                }
            }
        }
    }

    /// `.startsWith("a")`, behind its dot.
    fn call(&mut self, subject: Subject) -> Result<Node, InvalidValue> {
        let at = self.at();
        let Some(Word::Name(function)) = self.next() else {
            return Err(invalid(at, "expected the name of a function"));
        };
        let Subject::Text(texts) = subject else {
            return Err(invalid(at, "a port is a number, which has no functions"));
        };
        let make = match function.as_str() {
            "startsWith" => TextTest::StartsWith,
            "endsWith" => TextTest::EndsWith,
            "contains" => TextTest::Contains,
            other => return Err(invalid(at, &unknown("function", other, &FUNCTIONS))),
        };
        self.expect("(")?;
        let at = self.at();
        let text = self.text()?;
        if text.is_empty() {
            return Err(invalid(at, "every text has the empty text in it"));
        }
        self.expect(")")?;
        Ok(Node::Test(texts.with(make(text))))
    }

    /// `in ["a", "b"]`, behind `in`.
    fn membership(&mut self, subject: Subject) -> Result<Node, InvalidValue> {
        self.expect("[")?;
        Ok(Node::Test(match subject {
            Subject::Port => Test::Port(PortTest::OneOf(self.list(Self::port)?)),
            Subject::Text(texts) => texts.with(TextTest::OneOf(self.list(Self::text)?)),
        }))
    }

    fn list<T>(
        &mut self,
        item: impl Fn(&mut Self) -> Result<T, InvalidValue>,
    ) -> Result<Box<[T]>, InvalidValue> {
        let mut items = vec![item(self)?];
        while self.take(",") {
            items.push(item(self)?);
        }
        self.expect("]")?;
        Ok(items.into())
    }

    fn subject(&mut self) -> Result<Subject, InvalidValue> {
        let at = self.at();
        let name = self.name()?;
        let attribute = match name.as_str() {
            "destination.port" => return Ok(Subject::Port),
            "request.host" => return Ok(Subject::Text(Texts::Host)),
            "request.headers" => {
                self.expect("[")?;
                let name = self.header_name()?;
                self.expect("]")?;
                return Ok(Subject::Text(Texts::Header(name)));
            }
            "request.method" => Attribute::Method,
            "request.path" => Attribute::Path,
            "source.principal" => Attribute::Principal,
            "source.trustDomain" => Attribute::TrustDomain,
            "source.namespace" => Attribute::Namespace,
            "source.serviceAccount" => Attribute::ServiceAccount,
            other => return Err(invalid(at, &unknown("name", other, &NAMES))),
        };
        Ok(Subject::Text(Texts::One(attribute)))
    }

    /// Two words and the dot between them.
    fn name(&mut self) -> Result<String, InvalidValue> {
        let at = self.at();
        let Some(Word::Name(first)) = self.next() else {
            return Err(invalid(at, &format!("expected one of {}", NAMES.join(", "))));
        };
        let dotted = self.take(".").then(|| self.next());
        match dotted {
            Some(Some(Word::Name(second))) => Ok(format!("{first}.{second}")),
            _ => Err(invalid(at, &unknown("name", &first, &NAMES))),
        }
    }

    fn header_name(&mut self) -> Result<Box<str>, InvalidValue> {
        let at = self.at();
        let name = self.text()?.to_ascii_lowercase();
        if name == "host" {
            return Err(invalid(at, "the host is `request.host`, however the request says it"));
        }
        if OF_ONE_HOP.contains(&name.as_str()) {
            return Err(invalid(at, &format!("`{name}` belongs to one hop and is never judged")));
        }
        // RFC 9110 §5.6.2.
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(invalid(at, &format!("{name:?} is no name of a header")));
        }
        Ok(name.into())
    }

    fn text(&mut self) -> Result<Box<str>, InvalidValue> {
        let at = self.at();
        match self.next() {
            Some(Word::Text(text)) => Ok(text.into()),
            _ => Err(invalid(at, "expected a text in quotes")),
        }
    }

    fn port(&mut self) -> Result<u16, InvalidValue> {
        let at = self.at();
        let Some(Word::Number(number)) = self.next() else {
            return Err(invalid(at, "expected a port, as in 8080"));
        };
        match number.parse::<u16>() {
            Ok(port) if port > 0 && !number.starts_with('0') => Ok(port),
            _ => Err(invalid(at, &format!("{number}: a port is between 1 and 65535"))),
        }
    }

    fn peek(&self) -> Option<&Word> {
        self.rest.as_slice().first().map(|token| &token.word)
    }

    fn next(&mut self) -> Option<Word> {
        self.rest.next().map(|token| token.word)
    }

    /// Where the next word stands.
    fn at(&self) -> usize {
        self.rest.as_slice().first().map_or(self.end, |token| token.at)
    }

    fn take(&mut self, sign: &'static str) -> bool {
        let is_next = self.peek() == Some(&Word::Sign(sign));
        if is_next {
            self.rest.next();
        }
        is_next
    }

    fn take_name(&mut self, name: &str) -> bool {
        let is_next = matches!(self.peek(), Some(Word::Name(next)) if next == name);
        if is_next {
            self.rest.next();
        }
        is_next
    }

    fn expect(&mut self, sign: &'static str) -> Result<(), InvalidValue> {
        if self.take(sign) { Ok(()) } else { Err(self.expected(&format!("`{sign}`"))) }
    }

    fn expected(&self, what: &str) -> InvalidValue {
        invalid(self.at(), &format!("expected {what}"))
    }
}

impl Texts {
    fn with(self, test: TextTest) -> Test {
        match self {
            Self::Header(name) => Test::Header(name, test),
            Self::Host => Test::Host(test),
            Self::One(attribute) => Test::Text(attribute, test),
        }
    }
}

/// `None`: no port, or every port.
fn port_test(sign: &str, port: u16) -> Option<Node> {
    let test = |test| Some(Node::Test(Test::Port(test)));
    match sign {
        "==" => test(PortTest::OneOf([port].into())),
        "!=" => test(PortTest::OneOf([port].into())).map(|equal| Node::Not(Box::new(equal))),
        "<" => test(PortTest::Below(port)).filter(|_| port > 1),
        "<=" => test(PortTest::Below(port.checked_add(1)?)),
        ">" => test(PortTest::Above(port)).filter(|_| port < u16::MAX),
        ">=" => test(PortTest::Above(port.checked_sub(1)?)).filter(|_| port > 1),
        _ => None,
    }
}

fn joined(mut nodes: Vec<Node>, join: impl Fn(Box<[Node]>) -> Node) -> Node {
    match (nodes.pop(), nodes.is_empty()) {
        (Some(only), true) => only,
        (last, _) => join(nodes.into_iter().chain(last).collect()),
    }
}

fn unknown(what: &str, name: &str, known: &[&str]) -> String {
    format!(
        "unknown {what} `{name}`{}; known here: {}",
        spelling::did_you_mean(name, known),
        known.join(", ")
    )
}
