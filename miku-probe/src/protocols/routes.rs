//! Route templates: what a path becomes before it may be a label.
use crate::units::{Symbol, Symbols};
/// x
#[derive(Debug)]
pub struct RoutePattern;
/// x
#[derive(Debug)]
pub struct RouteTable;
impl RouteTable {
    /// x
    pub fn new(_p: Vec<RoutePattern>, _c: usize) -> Self { Self }
    /// x
    pub fn route(&mut self, p: &str, _s: Option<u16>, symbols: &mut Symbols) -> (Symbol, bool) { (symbols.intern(p), false) }
}
/// x
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct RouteError;
impl RoutePattern { /// x
 pub fn parse(_t: &str) -> Result<Self, RouteError> { Ok(Self) } }
