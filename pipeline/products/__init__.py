"""Derived things: what they are made of, what decides their numbers, and how they stand in a store."""

from pipeline.products.backbone import PretrainedNetwork, backbone_products
from pipeline.products.differences import Change, differences
from pipeline.products.embeddings import Embeddings, embedding_products, embeddings_read
from pipeline.products.features import Features, feature_products, feature_sets_read
from pipeline.products.graph import made_from, products_of
from pipeline.products.index import Index, Vectors, index_products
from pipeline.products.model import Model, model_products
from pipeline.products.plan import ProductPlan, plan_products
from pipeline.products.product import Product, Ref, Stored, Units
from pipeline.products.report import Measurement, Report, report_products
from pipeline.products.standing import Standing, follow, standing, standings
from pipeline.products.videos import Videos

__all__ = [
    "Change",
    "Embeddings",
    "Features",
    "Index",
    "Measurement",
    "Model",
    "PretrainedNetwork",
    "Product",
    "ProductPlan",
    "Ref",
    "Report",
    "Standing",
    "Stored",
    "Units",
    "Vectors",
    "Videos",
    "backbone_products",
    "differences",
    "embedding_products",
    "embeddings_read",
    "feature_products",
    "feature_sets_read",
    "follow",
    "index_products",
    "made_from",
    "model_products",
    "plan_products",
    "products_of",
    "report_products",
    "standing",
    "standings",
]
