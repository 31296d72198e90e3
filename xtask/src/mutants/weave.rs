//! Weaves many mutants into one source file, each behind a switch, so that one build serves them all.
//!
//! `a == b` becomes `(if is_active(7) { (a) != (b) } else { a == b })`, and a function whose value is replaced begins with
//! `if is_active(8) { return … }`. Only one mutant is active at a time, so a mutant's own text holds no other. What
//! cannot be written so without a change to the types is left out: an operand that binds (`if let … && …`), a field of a
//! struct, the value of a function that returns `impl …`. What the compiler then refuses is found by where in the woven text it complains ([`Woven::at`]).

use std::cmp::Reverse;
use std::ops::Range;

use anyhow::{Context, Result};
use proc_macro2::{LineColumn, Span};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Arm, BinOp, Block, Expr, ExprBinary, ExprMatch, ExprUnary, Pat, ReturnType, Signature, Type};

/// One change that cargo-mutants would make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mutant {
    pub(super) id: usize,
    /// As cargo-mutants shows it, with the file and the line.
    pub(super) name: String,
    pub(super) genre: Genre,
    /// Where what is replaced begins: line and column, both from 1, in characters.
    pub(super) start: (usize, usize),
    pub(super) replacement: String,
}

/// What kind of change it is, by the names of cargo-mutants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Genre {
    FnValue,
    BinaryOperator,
    UnaryOperator,
    MatchArm,
    MatchArmGuard,
    /// One that is not known here.
    Other,
}

/// A source file with its mutants woven in.
#[derive(Debug, Default)]
pub(super) struct Woven {
    pub(super) text: String,
    /// Where each mutant is, in bytes of the text.
    places: Vec<(Range<usize>, usize)>,
    /// Where the expressions are that were wrapped, and with which mutants.
    groups: Vec<(Range<usize>, Vec<usize>)>,
    /// Where the matches are of which arms may be deleted.
    matches: Vec<(Range<usize>, Vec<usize>)>,
}

impl Woven {
    /// The mutants that a complaint about these bytes may be about: that whose text it is, or those of the smallest
    /// expression around it.
    pub(super) fn at(&self, bytes: &Range<usize>) -> Vec<usize> {
        match self.places.iter().find(|(range, _)| surrounds(range, bytes)) {
            Some((_, id)) => vec![*id],
            None => smallest(&self.groups, bytes),
        }
    }

    /// The mutants that may be why a match at these bytes does not cover all values.
    pub(super) fn arms_at(&self, bytes: &Range<usize>) -> Vec<usize> {
        smallest(&self.matches, bytes)
    }

    fn push(&mut self, id: usize, text: &str) {
        let start = self.text.len();
        self.text.push_str(text);
        self.places.push((start..self.text.len(), id));
    }

    /// The mutants that were woven in.
    pub(super) fn mutants(&self) -> impl Iterator<Item = usize> {
        self.places.iter().map(|(_, id)| *id)
    }
}

fn surrounds(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

fn smallest(groups: &[(Range<usize>, Vec<usize>)], bytes: &Range<usize>) -> Vec<usize> {
    let groups = groups.iter().filter(|(range, _)| surrounds(range, bytes));
    groups.min_by_key(|(range, _)| range.len()).map(|(_, ids)| ids.clone()).unwrap_or_default()
}

/// Weaves into `source` those of `mutants` for which there is a way.
///
/// # Errors
/// Fails when the source is not Rust.
pub(super) fn weave(source: &str, mutants: &[Mutant]) -> Result<Woven> {
    let file = syn::parse_file(source).context("cannot parse a source file")?;
    let mut finder = Finder { lines: Lines::new(source), source, mutants, edits: Vec::new(), opaque: false };
    finder.visit_file(&file);
    let mut edits = finder.edits;
    // Outer before inner; in one place insertions come first.
    edits.sort_by_key(|edit| (edit.range.start, edit.shape != Shape::Insert, Reverse(edit.range.end)));
    let mut woven = Woven::default();
    render(source, 0..source.len(), &edits, &mut woven);
    Ok(woven)
}

/// A change to a range of the source.
#[derive(Debug)]
struct Edit {
    range: Range<usize>,
    shape: Shape,
    variants: Vec<(usize, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Inserts the texts.
    Insert,
    /// Chooses between the texts and the expression that is there.
    Wrap,
    /// Changes nothing, and remembers where a match is.
    Match,
}

fn render(source: &str, range: Range<usize>, edits: &[Edit], woven: &mut Woven) {
    let mut at = range.start;
    let mut rest = edits;
    while let Some((edit, after)) = rest.split_first() {
        let inner = after.iter().take_while(|inner| inner.range.start < edit.range.end).count();
        woven.text.push_str(&source[at..edit.range.start]);
        let start = woven.text.len();
        let ids = || edit.variants.iter().map(|(id, _)| *id).collect();
        match edit.shape {
            Shape::Insert => edit.variants.iter().for_each(|(id, text)| woven.push(*id, text)),
            Shape::Wrap => {
                woven.text.push('(');
                for (id, text) in &edit.variants {
                    woven.push(*id, &format!("if crate::mutants::is_active({id}) {{ {text} }} else "));
                }
                // In parentheses, since an `if` at the beginning of a block would be a statement.
                woven.text.push_str("{ (");
                render(source, edit.range.clone(), &after[..inner], woven);
                woven.text.push_str(") })");
                woven.groups.push((start..woven.text.len(), ids()));
            }
            Shape::Match => {
                render(source, edit.range.clone(), &after[..inner], woven);
                woven.matches.push((start..woven.text.len(), ids()));
            }
        }
        at = edit.range.end;
        rest = &after[inner..];
    }
    woven.text.push_str(&source[at..range.end]);
}

/// Finds in the syntax tree what the mutants change.
struct Finder<'a> {
    lines: Lines,
    source: &'a str,
    mutants: &'a [Mutant],
    edits: Vec<Edit>,
    /// Whether the next block is that of a function that returns `impl …`, which stands for one type only.
    opaque: bool,
}

impl Finder<'_> {
    fn bytes(&self, span: Span) -> Range<usize> {
        self.lines.byte(self.source, span.start())..self.lines.byte(self.source, span.end())
    }

    fn text(&self, span: Span) -> &str {
        &self.source[self.bytes(span)]
    }

    /// The mutants of this genre that begin here.
    fn of(&self, genre: Genre, start: LineColumn) -> impl Iterator<Item = &Mutant> {
        let here = (start.line, start.column + 1);
        self.mutants.iter().filter(move |mutant| mutant.genre == genre && mutant.start == here)
    }

    fn wrap(&mut self, span: Span, variants: Vec<(usize, String)>) {
        if !variants.is_empty() {
            self.edits.push(Edit { range: self.bytes(span), shape: Shape::Wrap, variants });
        }
    }

    fn insert(&mut self, at: LineColumn, variants: Vec<(usize, String)>) {
        if !variants.is_empty() {
            let at = self.lines.byte(self.source, at);
            self.edits.push(Edit { range: at..at, shape: Shape::Insert, variants });
        }
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_signature(&mut self, signature: &'ast Signature) {
        self.opaque =
            matches!(&signature.output, ReturnType::Type(_, output) if matches!(**output, Type::ImplTrait(_)));
        visit::visit_signature(self, signature);
    }

    fn visit_block(&mut self, block: &'ast Block) {
        let opaque = std::mem::take(&mut self.opaque);
        if let Some(first) = block.stmts.first().filter(|_| !opaque) {
            let start = first.span().start();
            let switch = |mutant: &Mutant| {
                let value = &mutant.replacement;
                (mutant.id, format!("if crate::mutants::is_active({}) {{ return {value}; }} ", mutant.id))
            };
            let variants = self.of(Genre::FnValue, start).map(switch).collect();
            self.insert(start, variants);
        }
        visit::visit_block(self, block);
    }

    fn visit_expr_binary(&mut self, expr: &'ast ExprBinary) {
        let operator = match expr.op {
            BinOp::And(_) | BinOp::Or(_) if binds(&expr.left) || binds(&expr.right) => None,
            operator => Some(operator.span().start()),
        };
        if let Some(start) = operator {
            let (left, right) = (self.text(expr.left.span()), self.text(expr.right.span()));
            let assigns = |operator: &str| operator.ends_with('=') && !["==", "!=", "<=", ">="].contains(&operator);
            let variant = |mutant: &Mutant| {
                let operator = &mutant.replacement;
                let left = if assigns(operator) { left.to_owned() } else { format!("({left})") };
                (mutant.id, format!("{left} {operator} ({right})"))
            };
            let variants = self.of(Genre::BinaryOperator, start).map(variant).collect();
            self.wrap(expr.span(), variants);
        }
        visit::visit_expr_binary(self, expr);
    }

    fn visit_expr_unary(&mut self, expr: &'ast ExprUnary) {
        let operand = self.text(expr.expr.span());
        let start = expr.op.span().start();
        let variants = self.of(Genre::UnaryOperator, start);
        let variants = variants.map(|mutant| (mutant.id, format!("{}{operand}", mutant.replacement))).collect();
        self.wrap(expr.span(), variants);
        visit::visit_expr_unary(self, expr);
    }

    fn visit_expr_match(&mut self, expr: &'ast ExprMatch) {
        let arms = expr.arms.iter().filter(|arm| arm.guard.is_none() && !takes_all(arm));
        let variants: Vec<_> = arms
            .flat_map(|arm| self.of(Genre::MatchArm, arm.span().start()))
            .map(|mutant| (mutant.id, String::new()))
            .collect();
        if !variants.is_empty() {
            self.edits.push(Edit { range: self.bytes(expr.span()), shape: Shape::Match, variants });
        }
        visit::visit_expr_match(self, expr);
    }

    fn visit_arm(&mut self, arm: &'ast Arm) {
        let deleted: Vec<usize> = self.of(Genre::MatchArm, arm.span().start()).map(|mutant| mutant.id).collect();
        match &arm.guard {
            Some((_, guard)) if !binds(guard) => {
                let replaced = self.of(Genre::MatchArmGuard, guard.span().start());
                let mut variants: Vec<_> = replaced.map(|mutant| (mutant.id, mutant.replacement.clone())).collect();
                variants.extend(deleted.into_iter().map(|id| (id, "false".to_owned())));
                self.wrap(guard.span(), variants);
            }
            Some(_) => {}
            None if takes_all(arm) => {}
            None => {
                let guard = |id| (id, format!("if !crate::mutants::is_active({id}) "));
                self.insert(arm.fat_arrow_token.span().start(), deleted.into_iter().map(guard).collect());
            }
        }
        visit::visit_arm(self, arm);
    }
}

/// Whether an arm is a name for all values that are left, so that the match cannot be without it.
fn takes_all(arm: &Arm) -> bool {
    matches!(arm.pat, Pat::Ident(_))
}

/// Whether an expression is a condition that names something for what comes after it.
fn binds(expr: &Expr) -> bool {
    match expr {
        Expr::Let(_) => true,
        Expr::Binary(expr) if matches!(expr.op, BinOp::And(_)) => binds(&expr.left) || binds(&expr.right),
        _ => false,
    }
}

/// Where each line begins, in bytes.
struct Lines(Vec<usize>);

impl Lines {
    fn new(source: &str) -> Self {
        Self(std::iter::once(0).chain(source.match_indices('\n').map(|(at, _)| at + 1)).collect())
    }

    fn byte(&self, source: &str, place: LineColumn) -> usize {
        let line = self.0[place.line - 1];
        source[line..].char_indices().nth(place.column).map_or(source.len(), |(at, _)| line + at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutant(id: usize, genre: Genre, start: (usize, usize), replacement: &str) -> Mutant {
        Mutant { id, name: String::new(), genre, start, replacement: replacement.to_owned() }
    }

    fn woven(source: &str, mutants: &[Mutant]) -> Woven {
        let woven = weave(source, mutants).expect("the source is Rust");
        syn::parse_file(&woven.text).expect("what is woven is Rust");
        woven
    }

    #[test]
    fn operators_are_chosen_between_and_what_is_not_changed_stays_as_it_is() {
        let source = "fn f(a: u8, b: u8) -> bool { a + 1 > b && !g() }";
        let mutants = [
            mutant(0, Genre::BinaryOperator, (1, 32), "-"),
            mutant(1, Genre::BinaryOperator, (1, 36), "<"),
            mutant(2, Genre::BinaryOperator, (1, 40), "||"),
            mutant(3, Genre::UnaryOperator, (1, 43), ""),
        ];
        let text = woven(source, &mutants).text;
        let expected = "fn f(a: u8, b: u8) -> bool { (if crate::mutants::is_active(2) { (a + 1 > b) || (!g()) } else { (\
                        (if crate::mutants::is_active(1) { (a + 1) < (b) } else { (\
                        (if crate::mutants::is_active(0) { (a) - (1) } else { (a + 1) }) > b) }) && \
                        (if crate::mutants::is_active(3) { g() } else { (!g()) })) }) }";
        assert_eq!(text, expected);
    }

    #[test]
    fn values_are_returned_first_and_assignments_keep_their_place() {
        let source = "fn f(é: &mut u8) -> u8 {\n    é.x += 1;\n    *é\n}";
        let mutants = [
            mutant(0, Genre::FnValue, (2, 5), "0"),
            mutant(1, Genre::FnValue, (2, 5), "1"),
            mutant(2, Genre::BinaryOperator, (2, 9), "-="),
        ];
        let text = woven(source, &mutants).text;
        let expected = "fn f(é: &mut u8) -> u8 {\n    if crate::mutants::is_active(0) { return 0; } \
                        if crate::mutants::is_active(1) { return 1; } \
                        (if crate::mutants::is_active(2) { é.x -= (1) } else { (é.x += 1) });\n    *é\n}";
        assert_eq!(text, expected);
    }

    #[test]
    fn arms_and_guards_are_switched_off() {
        let source = "fn f(a: u8) -> u8 { match a { 1 => 2, x if x > 7 => 3, rest => rest } }";
        let mutants = [
            mutant(0, Genre::MatchArm, (1, 31), ""),
            mutant(1, Genre::MatchArm, (1, 39), ""),
            mutant(2, Genre::MatchArmGuard, (1, 44), "true"),
            mutant(3, Genre::MatchArm, (1, 56), ""),
        ];
        let woven = woven(source, &mutants);
        let expected = "fn f(a: u8) -> u8 { match a { 1 if !crate::mutants::is_active(0) => 2, \
                        x if (if crate::mutants::is_active(2) { true } else if crate::mutants::is_active(1) { false } \
                        else { (x > 7) }) => 3, rest => rest } }";
        assert_eq!(woven.text, expected);
        // A match without an arm that takes the rest.
        let scrutinee = woven.text.find("a {").expect("the match has a subject");
        assert_eq!(woven.arms_at(&(scrutinee..scrutinee + 1)), [0]);
        let guard = woven.text.find("x > 7").expect("the guard is there");
        assert_eq!(woven.at(&(guard..guard + 5)), [2, 1]);
        let value = woven.text.find("{ true }").expect("the guard's value is there");
        assert_eq!(woven.at(&(value + 2..value + 6)), [2]);
    }

    #[test]
    fn what_would_change_a_type_or_a_name_is_left_out() {
        let source =
            "fn f() -> impl Iterator<Item = u8> { g() }\nfn h(a: Option<u8>) { if let Some(x) = a && x > 1 {} }";
        let mutants = [mutant(0, Genre::FnValue, (1, 38), "empty()"), mutant(1, Genre::BinaryOperator, (2, 43), "||")];
        let woven = woven(source, &mutants);
        assert_eq!(woven.text, source);
        assert_eq!(woven.mutants().count(), 0);
    }
}
