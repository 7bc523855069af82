"""What the deployments of a configuration cost."""

from dataclasses import replace

from adapters.usage import Usage
from config import ConfigError, schema

from .call import Deployment
from .price_list import PriceList, from_config
from .pricing import Bounds, Price, cost, most


class PriceBook:
    """The price of each deployment under one configuration. ``known`` is a price list instead of the configured one.

    All deployments are priced at once: nobody then keeps the list, which is 0.7 MB. Raises ConfigError for a list that
    cannot be read or used.
    """

    def __init__(self, config: schema.Config, known: PriceList | None = None) -> None:
        self._config = config.pricing
        self._adapters = {name: provider.adapter for name, provider in config.providers.items()}
        self._default = from_config(config.pricing.default) if config.pricing.default is not None else None
        self._found: dict[int, tuple[schema.Deployment, Price | None]] = {}
        """By identity, since equal deployments of two models may differ in policy. The deployment is kept with its price:
        only a living object's identity is its own."""
        try:
            known = known or PriceList.load(config.pricing.prices)
            for model in config.models.values():
                for d in model.deployments:
                    self._found[id(d)] = d, self._of(d, known, model.unpriced)
        except OSError as exc:
            raise ConfigError([f"pricing.prices: cannot be read: {exc.strerror}"]) from exc
        except ValueError as exc:
            raise ConfigError([f"pricing.prices: {exc}"]) from exc

    def price(self, deployment: Deployment) -> Price | None:
        """The price of a deployment of the configuration; None when it has none and that is to be refused."""
        return self._found[id(deployment.config)][1]

    def cost(self, deployment: Deployment, usage: Usage, tier: str | None = None) -> int:
        """The nano-dollars of what a deployment used at the tier that served; 0 where there is no price."""
        price = self.price(deployment)
        return 0 if price is None else cost(usage, price, tier)

    def worst_case(self, deployment: Deployment, bounds: Bounds, *tiers: str) -> int | None:
        """The most nano-dollars that a deployment may cost within ``bounds``; None when it has no price."""
        price = self.price(deployment)
        return None if price is None else most(bounds, price, tiers)

    def _of(self, deployment: schema.Deployment, known: PriceList, unpriced: str | None) -> Price | None:
        """Its own price, else the price list's, else (policy ``default``) the default one; None: has no price.

        ``unpriced`` is the public model's policy, where it has one.
        """
        provider, model = self._adapters.get(deployment.provider, deployment.provider), deployment.model
        if deployment.priced_as is not None:
            provider, _, model = deployment.priced_as.partition("/")
        listed = known.find(provider, model)
        price = listed
        if deployment.price is not None:
            price = from_config(deployment.price)
        elif price is None and (unpriced or self._config.unpriced) == "default":
            price = self._default
        if price is None:
            return None
        return replace(
            price,
            max_input=deployment.max_input or (listed.max_input if listed else None),
            max_output=deployment.max_output or (listed.max_output if listed else None),
        )
