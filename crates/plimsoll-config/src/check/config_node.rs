//! A value of the tree together with its key and its path.

use crate::tree::{Kind, Node, Path, Scalar, Span, Value, printable};

/// Node of the tree with its key and path.
#[derive(Clone, Debug)]
pub(crate) struct ConfigNode<'t> {
    /// Value in the tree.
    pub(crate) tree: &'t Node,
    /// Span of the key; `None` for list items and the root.
    pub(crate) key: Option<Span>,
    /// Path from the root of the file.
    pub(crate) path: Path<'t>,
}

impl<'t> ConfigNode<'t> {
    /// Returns the span that problems of the value point at: the key, if the value is empty or spans lines.
    pub(crate) fn span(&self) -> Span {
        match (&self.tree.value, self.key) {
            (Value::Scalar(_), Some(key)) if self.tree.span.is_empty() => key,
            (Value::Block(_) | Value::List(_), Some(key)) => key,
            _ => self.tree.span,
        }
    }

    /// Returns the value as written in the file, never the value of a variable.
    pub(crate) fn shown(&self) -> String {
        match &self.tree.value {
            Value::Scalar(scalar) => printable(scalar.written.as_deref().unwrap_or(&scalar.text)),
            _ => self.tree.kind().to_owned(),
        }
    }

    /// Returns whether the text contains the value of a variable, which must not be shown.
    pub(crate) fn is_variable(&self) -> bool {
        matches!(&self.tree.value, Value::Scalar(Scalar { written: Some(_), .. }))
    }

    pub(crate) fn scalar(&self) -> Option<&'t Scalar> {
        match &self.tree.value {
            Value::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    /// Returns whether a variable of the text could not be resolved, which has been reported.
    pub(crate) fn is_unresolved(&self) -> bool {
        self.scalar().is_some_and(|scalar| scalar.kind == Kind::Unresolved)
    }

    pub(crate) fn is_block(&self) -> bool {
        matches!(self.tree.value, Value::Block(_))
    }

    pub(crate) fn is_number_in_quotes(&self) -> bool {
        self.scalar().is_some_and(|scalar| scalar.kind == Kind::Text && scalar.text.parse::<i64>().is_ok())
    }

    pub(crate) fn is_empty_block(&self) -> bool {
        matches!(&self.tree.value, Value::Block(entries) if entries.is_empty())
    }

    pub(crate) fn is_bool(&self) -> bool {
        self.scalar().is_some_and(|scalar| matches!(scalar.kind, Kind::Bool(_)))
    }

    pub(crate) fn is_text(&self) -> bool {
        self.scalar().is_some_and(|scalar| scalar.kind == Kind::Text)
    }
}
